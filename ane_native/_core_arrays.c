// SPDX-License-Identifier: MIT
/* _core_arrays.c - the one file that is written against Python: numpy arrays by the hundred.
 *
 *   table(mapping, names, layout, kind) -> bytes | None
 *   unchanged(mapping, names, arrays) -> bool
 *
 * A boundary is given as many arrays as a model has weights; asked one by one, from Python, for
 * dtype, shape and address they cost more than the boundary. It is the module `_core_arrays`, in
 * the same file as `_core` (_native.py loads it), and knows nothing of the core. Arrays are read
 * by numpy's array interface, "__array_struct__"; no numpy header is needed. */
#ifdef ANE_LIMITED_API /* one binary for all later Pythons, as in _core_build.py */
#define Py_LIMITED_API 0x030a0000
#endif
#include <Python.h>

#include <stdint.h>

/* The structure behind the capsule (numpy, "The array interface protocol", C-struct access). */
typedef struct {
    int two; /* 2: it is one */
    int nd;
    char typekind;
    int itemsize;
    int flags;
    Py_ssize_t *shape, *strides;
    void *data;
    PyObject *descr;
} ArrayInterface;
enum { C_CONTIGUOUS = 0x1, ALIGNED = 0x100, NOT_SWAPPED = 0x200, DENSE = C_CONTIGUOUS | ALIGNED | NOT_SWAPPED };

static PyObject *g_array_struct; /* the attribute's name */

/* Address of an array of floats that is dense and aligned, of this item size and shape; NULL without an exception: it
 * is not. *layout moves on: item size, rank, then the axes. */
static void *address_of(PyObject *array, const int64_t **layout) {
    PyObject *capsule = PyObject_GetAttr(array, g_array_struct);
    if (!capsule)
        return NULL;
    const ArrayInterface *a = PyCapsule_GetPointer(capsule, NULL);
    const int64_t bytes = (*layout)[0], rank = (*layout)[1], *shape = *layout + 2;
    int fits = a && a->two == 2 && a->typekind == 'f' && a->itemsize == bytes &&
               (a->flags & DENSE) == DENSE && a->nd == rank;
    for (int64_t i = 0; fits && i < rank; i++)
        fits = a->shape[i] == shape[i];
    void *data = fits ? a->data : NULL;
    Py_DECREF(capsule);
    *layout = shape + rank;
    return data;
}

/* Fill `out`; 1 done, 0 something does not fit, -1 an exception. */
static int fill(PyObject *mapping, PyObject *names, const int64_t *layout, const int64_t *end, PyObject *kind, void **out) {
    const Py_ssize_t n = PyTuple_Size(names);
    if (PyDict_Size(mapping) != n)
        return 0;
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *array = PyDict_GetItemWithError(mapping, PyTuple_GetItem(names, i));
        if (!array || (PyObject *)Py_TYPE(array) != kind)
            return PyErr_Occurred() ? -1 : 0;
        if (end - layout < 2 || layout[1] < 0 || layout[1] > end - layout - 2) {
            PyErr_SetString(PyExc_ValueError, "layout: expected item size, rank and as many axes for each name");
            return -1;
        }
        Py_INCREF(array);
        out[i] = address_of(array, &layout);
        Py_DECREF(array);
        if (!out[i])
            return PyErr_Occurred() ? -1 : 0;
    }
    return 1;
}

PyDoc_STRVAR(table_doc,
             "table(mapping, names, layout, kind)\n--\n\n"
             "Addresses of the arrays of a dict of our own, in the order of the tuple `names`, as bytes.\n\n"
             "None: a name is missing or too much, or an array is not exactly of type `kind`, of floats,\n"
             "C-contiguous, aligned and of its item size and shape in `layout` (bytes of int64: item size, rank,\n"
             "axes, for each name).");

static PyObject *table(PyObject *self, PyObject *args) {
    (void)self;
    PyObject *mapping, *names, *layout, *kind;
    if (!PyArg_ParseTuple(args, "O!O!SO", &PyDict_Type, &mapping, &PyTuple_Type, &names, &layout, &kind))
        return NULL;
    const int64_t *begin = (const int64_t *)(const void *)PyBytes_AsString(layout);
    const int64_t *end = begin + PyBytes_Size(layout) / (Py_ssize_t)sizeof *begin;
    PyObject *made = PyBytes_FromStringAndSize(NULL, PyTuple_Size(names) * (Py_ssize_t)sizeof(void *));
    if (!made)
        return NULL;
    int status = fill(mapping, names, begin, end, kind, (void **)(void *)PyBytes_AsString(made));
    if (status == 1)
        return made;
    Py_DECREF(made);
    if (status < 0)
        return NULL;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(unchanged_doc,
             "unchanged(mapping, names, arrays)\n--\n\n"
             "Whether the dict has these very names and arrays (two tuples), and in this order.");

static PyObject *unchanged(PyObject *self, PyObject *args) {
    (void)self;
    PyObject *mapping, *names, *arrays, *key, *value;
    if (!PyArg_ParseTuple(args, "O!O!O!", &PyDict_Type, &mapping, &PyTuple_Type, &names, &PyTuple_Type, &arrays))
        return NULL;
    const Py_ssize_t n = PyTuple_Size(names);
    Py_ssize_t at = 0, i = 0;
    int same = PyDict_Size(mapping) == n && PyTuple_Size(arrays) == n;
    for (; same && i < n && PyDict_Next(mapping, &at, &key, &value); i++)
        same = key == PyTuple_GetItem(names, i) && value == PyTuple_GetItem(arrays, i);
    return PyBool_FromLong(same && i == n);
}

static PyMethodDef g_methods[] = {
    {"table", table, METH_VARARGS, table_doc},
    {"unchanged", unchanged, METH_VARARGS, unchanged_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef g_module = {
    PyModuleDef_HEAD_INIT, "ane_native._core_arrays", NULL, -1, g_methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC __attribute__((visibility("default"))) PyInit__core_arrays(void) {
    if (!g_array_struct && !(g_array_struct = PyUnicode_InternFromString("__array_struct__")))
        return NULL;
    PyObject *module = PyModule_Create(&g_module);
#ifdef Py_GIL_DISABLED
    if (module)
        PyUnstable_Module_SetGIL(module, Py_MOD_GIL_NOT_USED);
#endif
    return module;
}
