# SPDX-License-Identifier: MIT
"""What the engine's library has: classes, selectors, QoS levels. Nothing is compiled by `selectors`.

The classes and selectors are those read from framework listings and seen in public source; which of them
a given macOS has is published nowhere. Asked through the Objective-C runtime's C functions
(``class_respondsToSelector``), so that a selector that is missing costs nothing.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import numpy as np

from ane_native import _native
from ane_native.errors import EngineError
from ane_native.kernel import Program

from .base import Bench, Impossible, Made, conv, experiment, shape_of, weight

#: Without these the core does not open an engine.
CORE = {
    "_ANEInMemoryModelDescriptor": "+modelWithMILText:weights:optionsPlist:",
    "_ANEInMemoryModel": (
        "+inMemoryModelWithDescriptor: -hexStringIdentifier -localModelPath -compiledModelExists "
        "-purgeCompiledModel -modelAttributes -compileWithQoS:options:error: -loadWithQoS:options:error: "
        "-evaluateWithQoS:options:request:error: -unloadWithQoS:error:"
    ),
    "_ANERequest": (
        "+requestWithInputs:inputIndices:outputs:outputIndices:weightsBuffer:perfStats:procedureIndex: -validate"
    ),
    "_ANEIOSurfaceObject": "+objectWithIOSurface:",
}
#: Others that listings or public programs name.
OTHERS = {
    "_ANEInMemoryModelDescriptor": (
        "+modelWithNetworkDescription:weights:optionsPlist: -networkText -weights -optionsPlist -networkTextHash "
        "-weightsHash -optionsPlistHash -isMILModel -hexStringIdentifier"
    ),
    "_ANEInMemoryModel": (
        "-modelURL -state -programHandle -intermediateBufferHandle -queueDepth -perfStatsMask -program -model "
        "-string_id -compilerOptionsFileName -descriptor -sharedConnection -isMILModel -setModelURL: "
        "-setDescriptor: -setPerfStatsMask: -setModelAttributes: -setState: -saveModelFiles "
        "-compilerOptionsWithOptions:isCompiledModelCached: -mapIOSurfacesWithRequest:cacheInference:error: "
        "-unmapIOSurfacesWithRequest:"
    ),
    "_ANERequest": (
        "+requestWithInputs:inputIndices:outputs:outputIndices:procedureIndex: "
        "+requestWithInputs:inputIndices:outputs:outputIndices:perfStats:procedureIndex: "
        "+requestWithInputs:inputIndices:outputs:outputIndices:weightsBuffer:procedureIndex: "
        "+requestWithInputs:inputIndices:outputs:outputIndices:weightsBuffer:perfStats:procedureIndex:sharedEvents: "
        "-ioSurfacesCount -inputArray -inputIndexArray -outputArray -outputIndexArray -weightsBuffer "
        "-procedureIndex -perfStatsArray -sharedEvents -transactionHandle -completionHandler "
        "-setCompletionHandler: -setPerfStats: -setSharedEvents: -setTransactionHandle:"
    ),
    "_ANEIOSurfaceObject": (
        "+objectWithIOSurface:startOffset: +objectWithIOSurfaceNoRetain:startOffset: -ioSurface -startOffset"
    ),
    "_ANEModel": (
        "+modelAtURL:key: +modelAtURL:key:modelAttributes: +modelAtURLWithSourceURL:sourceURL:key:cacheURLIdentifier: "
        "+modelWithCacheURLIdentifier: -getUUID -modelAttributes -state -program -mapper -string_id "
        "-programHandle -queueDepth -procedureInfoForProcedureIndex: -inputSymbolIndicesForProcedureIndex: "
        "-outputSymbolIndicesForProcedureIndex:"
    ),
    "_ANEClient": (
        "+sharedConnection +sharedPrivateConnection -initWithRestrictedAccessAllowed: "
        "-compileModel:options:qos:error: -loadModel:options:qos:error: -unloadModel:options:qos:error: "
        "-evaluateWithModel:options:request:qos:error: -doEvaluateDirectWithModel:options:request:qos:error: "
        "-evaluateRealTimeWithModel:options:request:error: -compiledModelExistsFor: "
        "-compiledModelExistsMatchingHash: -purgeCompiledModel: -purgeCompiledModelMatchingHash: "
        "-loadModelNewInstance:options:modelInstParams:qos:error: -beginRealTimeTask -endRealTimeTask "
        "-prepareChainingWithModel:options:chainingReq:qos:error: "
        "-enqueueSetsWithModel:outputSet:options:qos:error: "
        "-buffersReadyWithModel:inputBuffers:options:qos:error: -isVirtualClient -echo:"
    ),
    "_ANEProgramForEvaluation": (
        "-processRequest:model:qos:qIndex:modelStringID:options:returnValue:error: "
        "+programWithHandle:intermediateBufferHandle:queueDepth: -programHandle -queueDepth -requestsInFlight "
        "-currentAsyncRequestsInFlight"
    ),
    "_ANEQoSMapper": (
        "+aneDefaultTaskQoS +aneUserInteractiveTaskQoS +aneUserInitiatedTaskQoS +aneUtilityTaskQoS "
        "+aneBackgroundTaskQoS +aneRealTimeTaskQoS +queueIndexForQoS: +programPriorityForQoS: "
        "+realTimeQueueIndex +realTimeProgramPriority"
    ),
    "_ANEDeviceInfo": (
        "+aneSubType +aneArchitectureType +numANEs +numANECores +hasANE +isVirtualMachine +buildVersion"
    ),
    "_ANEChainingRequest": (
        "+chainingRequestWithInputs:outputSets:lbInputSymbolId:lbOutputSymbolId:procedureIndex:signalEvents:"
        "transactionHandle:fwEnqueueDelay:memoryPoolId:"
    ),
    "_ANEIOSurfaceOutputSets": "+objectWithstatsSurRef:outputBuffer:",
    "_ANEBuffer": "+bufferWithIOSurfaceObject:symbolIndex:source:",
    "_ANEPerformanceStatsIOSurface": "+objectWithIOSurface:statType:",
    "_ANESharedSignalEvent": "+signalEventWithValue:symbolIndex:eventType:sharedEvent:",
    "_ANESharedWaitEvent": "+waitEventWithValue:sharedEvent: +waitEventWithValue:sharedEvent:eventType:",
    "_ANESharedEvents": "+sharedEventsWithSignalEvents:waitEvents:",
    "_ANEWeight": "+weightWithSymbolAndURL:weightURL:",
}  # fmt: skip
#: The valid levels, and others (0 to 63 were all reported to work on one M5).
LEVELS = (0, 1, 5, 9, 10, 17, 21, 25, 33, 47, 63, 1000)


class Runtime:
    """The Objective-C runtime that the core uses."""

    def __init__(self) -> None:
        path = (
            "/usr/lib/libobjc.A.dylib" if sys.platform == "darwin" else str(_native.core().__file__)
        )
        self._c = ctypes.CDLL(path)  # a look-up goes on in what this library is linked with
        pointer = ctypes.c_void_p
        signatures: dict[str, tuple[Any, list[Any]]] = {
            "objc_getClass": (pointer, [ctypes.c_char_p]),
            "objc_getMetaClass": (pointer, [ctypes.c_char_p]),
            "sel_registerName": (pointer, [ctypes.c_char_p]),
            "class_respondsToSelector": (ctypes.c_bool, [pointer, pointer]),
            "class_getMethodImplementation": (pointer, [pointer, pointer]),
        }
        for name, (result, arguments) in signatures.items():
            try:
                function = getattr(self._c, name)
            except AttributeError:
                raise Impossible(f"this Objective-C runtime has no {name}") from None
            function.restype, function.argtypes = result, arguments

    def has(self, name: str) -> bool:
        """Whether there is a class of this name."""
        return bool(self._c.objc_getClass(name.encode()))

    def answers(self, name: str, method: str) -> bool:
        """Whether a class (``+``) or its objects (``-``) answer a selector."""
        if not self.has(name):
            return False
        find = self._c.objc_getMetaClass if method[0] == "+" else self._c.objc_getClass
        cls = find(name.encode())
        selector = self._c.sel_registerName(method[1:].encode())
        return bool(cls and self._c.class_respondsToSelector(cls, selector))

    def number(self, name: str, method: str, given: int | None = None) -> int | None:
        """The answer of a class method that takes at most a number; None where there is none."""
        if not self.answers(name, "+" + method):
            return None
        cls = self._c.objc_getClass(name.encode())
        selector = self._c.sel_registerName(method.encode())
        call = self._c.class_getMethodImplementation(
            self._c.objc_getMetaClass(name.encode()), selector
        )
        types = [ctypes.c_uint] if given is not None else []
        made = ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p, *types)(call)
        return int(made(cls, selector, *([given] if given is not None else [])))


@experiment("selectors", "which private classes and selectors does this engine have?")
def selectors(bench: Bench) -> Made:
    runtime = Runtime()
    table: dict[str, Any] = {}
    missing: list[str] = []
    asked = 0
    for name in dict.fromkeys((*CORE, *OTHERS)):
        methods = f"{CORE.get(name, '')} {OTHERS.get(name, '')}".split()
        asked += len(methods)
        if not runtime.has(name):
            table[name] = None
            missing.append(name)
            continue
        table[name] = {m: runtime.answers(name, m) for m in methods}
        missing += [f"{m[0]}[{name} {m[1:]}]" for m, there in table[name].items() if not there]
    there = sum(sum(t.values()) for t in table.values() if t)
    said = f"{there} of {asked} selectors in {sum(t is not None for t in table.values())} of {len(table)} classes"
    said += f"; not: {', '.join(missing[:6])}" if missing else ""
    if len(missing) > 6:
        said += f" and {len(missing) - 6} more"
    return said, {"classes": table, "missing": missing}


@experiment("qos", "which QoS values are taken, and which queue has each?")
def qos(bench: Bench) -> Made:
    runtime = Runtime()
    rows: list[dict[str, Any]] = []
    x = np.ones((1, 64, 1, 32), np.float32)
    w = weight(64, 77)
    want = w["w"][:, :, 0, 0].sum(1)
    for i, level in enumerate(LEVELS):
        row: dict[str, Any] = {
            "qos": level,
            "queue": runtime.number("_ANEQoSMapper", "queueIndexForQoS:", level),
            "priority": runtime.number("_ANEQoSMapper", "programPriorityForQoS:", level),
        }
        try:
            scale = np.float32(1 + i / 64)  # another program for each level
            with Program(conv(64, 32), {"w": w["w"] * scale}, qos=level) as program:
                info: Any = program.info()
                got = np.asarray(program.eval(x))[0, :, 0, 0]
            error = np.abs(got - want * scale).max()
            right = bool(error < 0.03 * np.abs(want).max())
            row |= {"result": "right" if right else "wrong", "compile_ms": info["compile_ms"]}
            row["load_ms"] = info["load_ms"]
        except EngineError as error:
            row |= {"result": f"{error.step} refused", "form": shape_of(error)}
        rows.append(row)
        bench.tell({"rows": rows})
    taken = [r["qos"] for r in rows if r["result"] == "right"]
    others = [f"{r['qos']} {r['result']}" for r in rows if r["result"] != "right"]
    queues = ", ".join(f"{r['qos']}→{r['queue']}" for r in rows if r["queue"] is not None)
    said = f"taken: {', '.join(map(str, taken)) or '-'}; not: {', '.join(others) or '-'}"
    return f"{said}; queues {queues or 'not told'}", {"rows": rows, "taken": taken}
