// SPDX-License-Identifier: MIT
/* msgsend.c - objc_msgSend for GCC's Objective-C runtime.
 *
 * GCC's runtime finds a method (objc_msg_lookup) and leaves the call to the
 * compiler. Programs for Apple's runtime call objc_msgSend, whatever the type
 * of the method: so every register that may hold an argument is kept, the
 * method is looked up, and it is jumped to with the stack as it was. Nothing
 * of this remains on the stack, so variadic methods, many arguments and
 * exceptions work as in a direct call.
 *
 * A nil receiver answers 0 in every register that may hold a result; a result
 * in memory (…_stret) is left as it is, which callers compiled by clang expect.
 * Not kept: the upper halves of 256-bit vector arguments, which no method has. */

#if defined(__x86_64__)

/* %rdi/%rsi = receiver/selector on entry of the lookup. The frame: 8 vector
 * registers (128 bytes), 6 integer registers, %rax (number of vector
 * arguments of a variadic call), %r10 (static chain). 16-byte aligned: the
 * return address and %rbp make 16, the frame is 192. */
#define SAVE \
    "pushq %rbp\n.cfi_adjust_cfa_offset 8\n.cfi_rel_offset %rbp, 0\n" \
    "movq %rsp, %rbp\n.cfi_def_cfa_register %rbp\n" \
    "subq $192, %rsp\n" \
    "movdqu %xmm0, (%rsp)\nmovdqu %xmm1, 16(%rsp)\nmovdqu %xmm2, 32(%rsp)\nmovdqu %xmm3, 48(%rsp)\n" \
    "movdqu %xmm4, 64(%rsp)\nmovdqu %xmm5, 80(%rsp)\nmovdqu %xmm6, 96(%rsp)\nmovdqu %xmm7, 112(%rsp)\n" \
    "movq %rdi, 128(%rsp)\nmovq %rsi, 136(%rsp)\nmovq %rdx, 144(%rsp)\nmovq %rcx, 152(%rsp)\n" \
    "movq %r8, 160(%rsp)\nmovq %r9, 168(%rsp)\nmovq %rax, 176(%rsp)\nmovq %r10, 184(%rsp)\n"

#define RESTORE \
    "movq %rax, %r11\n" \
    "movdqu (%rsp), %xmm0\nmovdqu 16(%rsp), %xmm1\nmovdqu 32(%rsp), %xmm2\nmovdqu 48(%rsp), %xmm3\n" \
    "movdqu 64(%rsp), %xmm4\nmovdqu 80(%rsp), %xmm5\nmovdqu 96(%rsp), %xmm6\nmovdqu 112(%rsp), %xmm7\n" \
    "movq 128(%rsp), %rdi\nmovq 136(%rsp), %rsi\nmovq 144(%rsp), %rdx\nmovq 152(%rsp), %rcx\n" \
    "movq 160(%rsp), %r8\nmovq 168(%rsp), %r9\nmovq 176(%rsp), %rax\nmovq 184(%rsp), %r10\n" \
    "leave\n.cfi_def_cfa %rsp, 8\n.cfi_restore %rbp\n"

#define BEGIN(name) ".globl " #name "\n.type " #name ", @function\n.p2align 4\n" #name ":\n.cfi_startproc\nendbr64\n"
#define END(name) ".cfi_endproc\n.size " #name ", .-" #name "\n"

__asm__(".text\n"
        BEGIN(objc_msgSend)
        "testq %rdi, %rdi\nje 1f\n"
        SAVE "callq objc_msg_lookup@PLT\n" RESTORE
        "jmpq *%r11\n"
        "1: xorl %eax, %eax\nxorl %edx, %edx\npxor %xmm0, %xmm0\npxor %xmm1, %xmm1\nretq\n"
        END(objc_msgSend)

        BEGIN(objc_msgSend_fpret) /* long double: the result is on the x87 stack */
        "testq %rdi, %rdi\nje 1f\n"
        SAVE "callq objc_msg_lookup@PLT\n" RESTORE
        "jmpq *%r11\n"
        "1: fldz\nxorl %eax, %eax\npxor %xmm0, %xmm0\nretq\n"
        END(objc_msgSend_fpret)

        BEGIN(objc_msgSend_stret) /* %rdi = where the result goes */
        "testq %rsi, %rsi\nje 1f\n"
        SAVE "movq %rsi, %rdi\nmovq %rdx, %rsi\ncallq objc_msg_lookup@PLT\n" RESTORE
        "jmpq *%r11\n"
        "1: movq %rdi, %rax\nretq\n"
        END(objc_msgSend_stret)

        BEGIN(objc_msgSendSuper) /* %rdi = struct objc_super: {receiver, class} */
        SAVE "callq objc_msg_lookup_super@PLT\n" RESTORE
        "movq (%rdi), %rdi\njmpq *%r11\n"
        END(objc_msgSendSuper)

        BEGIN(objc_msgSendSuper_stret)
        SAVE "movq %rsi, %rdi\nmovq %rdx, %rsi\ncallq objc_msg_lookup_super@PLT\n" RESTORE
        "movq (%rsi), %rsi\njmpq *%r11\n"
        END(objc_msgSendSuper_stret)
        ".section .note.GNU-stack,\"\",@progbits\n.text\n");

#elif defined(__aarch64__)

/* x0-x7 and q0-q7 hold arguments, x8 where a large result goes; x30 returns.
 * 16 * 8 + 10 * 8 + x29/x30 = 224 bytes. */
#define SAVE \
    "stp x29, x30, [sp, #-224]!\n.cfi_def_cfa_offset 224\n.cfi_offset x29, -224\n.cfi_offset x30, -216\n" \
    "mov x29, sp\n" \
    "stp x0, x1, [sp, #16]\nstp x2, x3, [sp, #32]\nstp x4, x5, [sp, #48]\nstp x6, x7, [sp, #64]\nstr x8, [sp, #80]\n" \
    "stp q0, q1, [sp, #96]\nstp q2, q3, [sp, #128]\nstp q4, q5, [sp, #160]\nstp q6, q7, [sp, #192]\n"

#define RESTORE \
    "mov x16, x0\n" \
    "ldp x0, x1, [sp, #16]\nldp x2, x3, [sp, #32]\nldp x4, x5, [sp, #48]\nldp x6, x7, [sp, #64]\nldr x8, [sp, #80]\n" \
    "ldp q0, q1, [sp, #96]\nldp q2, q3, [sp, #128]\nldp q4, q5, [sp, #160]\nldp q6, q7, [sp, #192]\n" \
    "ldp x29, x30, [sp], #224\n.cfi_def_cfa_offset 0\n.cfi_restore x29\n.cfi_restore x30\n"

#define BEGIN(name) ".globl " #name "\n.type " #name ", %function\n.p2align 4\n" #name ":\n.cfi_startproc\nhint #34\n"
#define END(name) ".cfi_endproc\n.size " #name ", .-" #name "\n"

/* A large result needs no function of its own here; the names exist all the same. */
__asm__(".text\n"
        ".globl objc_msgSend_fpret\n.globl objc_msgSend_stret\n"
        "objc_msgSend_fpret:\nobjc_msgSend_stret:\n"
        BEGIN(objc_msgSend)
        "cbz x0, 1f\n"
        SAVE "bl objc_msg_lookup\n" RESTORE
        "br x16\n"
        "1: mov x1, #0\nmovi d0, #0\nmovi d1, #0\nmovi d2, #0\nmovi d3, #0\nret\n"
        END(objc_msgSend)

        ".globl objc_msgSendSuper_stret\nobjc_msgSendSuper_stret:\n"
        BEGIN(objc_msgSendSuper)
        SAVE "bl objc_msg_lookup_super\n" RESTORE
        "ldr x0, [x0]\nbr x16\n"
        END(objc_msgSendSuper)
        ".section .note.GNU-stack,\"\",%progbits\n.text\n");

#else
#error "objc_msgSend is written for x86-64 and aarch64 only"
#endif
