/* How a base type is declared: by the list of its fields, `Type_FIELDS(G, O, F, Z, I, R, B, D, N)`.
   Of a `PLAIN_TYPE` the list is also what its `__init__` does: `G` are given to it, in this order,
   `O` are `None`, `F` are `False`, `Z` are 0, `I` are infinite; `D` and `N` are given, too. `R` are
   given once, and stay. The rest are C's: booleans, seconds, numbers. */

#ifndef THOUSAND_ISLAND_TYPES_H
#define THOUSAND_ISLAND_TYPES_H

#include "native.h"

#include <structmember.h>

#define OBJECT_FIELD(name) PyObject *name;
#define TRUTH_FIELD(name) char name;
#define SECONDS_FIELD(name) double name;
#define NUMBER_FIELD(name) long name;
#define FIELDS_OF(Type)                                                                        \
    Type##_FIELDS(OBJECT_FIELD, OBJECT_FIELD, OBJECT_FIELD, OBJECT_FIELD, OBJECT_FIELD,        \
                  OBJECT_FIELD, TRUTH_FIELD, SECONDS_FIELD, NUMBER_FIELD)
#define STRUCT(Type, ...)                                                                      \
    typedef struct {                                                                           \
        PyObject_HEAD FIELDS_OF(Type) __VA_ARGS__                                              \
    } Type;

/* The rest of it, where `Self` is the type; what follows are slots that are its own. */
#define NO(name)
#define VISIT(name) Py_VISIT(self->name);
#define CLEAR(name) Py_CLEAR(self->name);
#define MEMBER(name, kind, flags) {#name, kind, offsetof(Self, name), flags, NULL},
#define OBJECT_MEMBER(name) MEMBER(name, T_OBJECT_EX, 0)
#define GIVEN_MEMBER(name) MEMBER(name, T_OBJECT_EX, READONLY)
#define TRUTH_MEMBER(name) MEMBER(name, T_BOOL, 0)
#define SECONDS_MEMBER(name) MEMBER(name, T_DOUBLE, 0)
#define NUMBER_MEMBER(name) MEMBER(name, T_LONG, 0)

#define TYPE(Type, called, ...)                                                                 \
    static int Type##_traverse(Type *self, visitproc visit, void *arg) {                       \
        Py_VISIT(Py_TYPE(self));                                                               \
        Type##_FIELDS(VISIT, VISIT, VISIT, VISIT, VISIT, VISIT, NO, NO, NO)                    \
        return 0;                                                                              \
    }                                                                                          \
    static int Type##_clear(Type *self) {                                                      \
        Type##_FIELDS(CLEAR, CLEAR, CLEAR, CLEAR, CLEAR, CLEAR, NO, NO, NO)                    \
        return 0;                                                                              \
    }                                                                                          \
    static void Type##_dealloc(Type *self) {                                                   \
        PyTypeObject *type = Py_TYPE(self);                                                    \
        PyObject_GC_UnTrack(self);                                                             \
        Type##_clear(self);                                                                    \
        type->tp_free(self);                                                                   \
        Py_DECREF(type);                                                                       \
    }                                                                                          \
    static PyMemberDef Type##_members[] = {                                                    \
        Type##_FIELDS(OBJECT_MEMBER, OBJECT_MEMBER, OBJECT_MEMBER, OBJECT_MEMBER,              \
                      OBJECT_MEMBER, GIVEN_MEMBER, TRUTH_MEMBER, SECONDS_MEMBER, NUMBER_MEMBER)    \
        {NULL, 0, 0, 0, NULL}};                                                                \
    static PyType_Slot Type##_slots[] = {                                                      \
        {Py_tp_traverse, Type##_traverse}, {Py_tp_clear, Type##_clear},                        \
        {Py_tp_dealloc, Type##_dealloc},   {Py_tp_members, Type##_members},                    \
        __VA_ARGS__ {0, NULL}};                                                                \
    PyType_Spec Type##_spec = {                                                         \
        .name = "thousand_island_sync._native." called,                                        \
        .basicsize = sizeof(Type),                                                             \
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,                \
        .slots = Type##_slots};
#define ONE_MORE(name) +1
#define TAKE_GIVEN(name) set(&self->name, *given++);
#define TAKE_SECONDS(name)                                                                     \
    if (seconds_of(*given++, &self->name) < 0)                                                 \
        return -1;
#define TAKE_NUMBER(name)                                                                      \
    if (whole(*given++, &self->name) < 0)                                                      \
        return -1;
#define MAKE_NONE(name) set(&self->name, Py_None);
#define MAKE_FALSE(name) set(&self->name, Py_False);
#define MAKE_ZERO(name) set(&self->name, native->zero);
#define MAKE_INFINITE(name) set(&self->name, native->infinite);
/* `Type_call` is what a call of the type is from the second on: `type.__call__` would make a tuple of
   what is given, and look for `__new__` and `__init__`. */
#define PLAIN_INIT(Type)                                                                       \
    enum {                                                                                     \
        Type##_TAKES = 0 Type##_FIELDS(ONE_MORE, NO, NO, NO, NO, NO, NO, ONE_MORE, ONE_MORE)   \
    };                                                                                         \
    static int Type##_fill(Type *self, PyObject *const *given) {                               \
        Type##_FIELDS(TAKE_GIVEN, MAKE_NONE, MAKE_FALSE, MAKE_ZERO, MAKE_INFINITE, NO, NO,     \
                      TAKE_SECONDS, TAKE_NUMBER)                                               \
        return 0;                                                                              \
    }                                                                                          \
    static int Type##_init(Type *self, PyObject *args, PyObject *names);                       \
    static PyObject *Type##_call(PyObject *called, PyObject *const *given, size_t count,       \
                                 PyObject *names) {                                            \
        PyTypeObject *type = (PyTypeObject *)called;                                           \
        if (!is_plain(type, (initproc)Type##_init) || names != NULL ||                         \
            PyVectorcall_NARGS(count) != Type##_TAKES)                                         \
            return call_the_long_way(type, given, count, names);                               \
        PyObject *self = type->tp_alloc(type, 0);                                              \
        if (self != NULL && Type##_fill((Type *)self, given) < 0)                              \
            Py_CLEAR(self);                                                                    \
        return self;                                                                           \
    }                                                                                          \
    static int Type##_init(Type *self, PyObject *args, PyObject *names) {                      \
        if (takes_so_many((PyObject *)self, args, names, Type##_TAKES) < 0 ||                  \
            Type##_fill(self, ((PyTupleObject *)args)->ob_item) < 0)                           \
            return -1;                                                                         \
        if (is_plain(Py_TYPE(self), (initproc)Type##_init))                                    \
            Py_TYPE(self)->tp_vectorcall = Type##_call;                                        \
        return 0;                                                                              \
    }
#define PLAIN_TYPE(Type, ...)                                                                  \
    PLAIN_INIT(Type)                                                                           \
    TYPE(Type, #Type, BEGINS(Type) __VA_ARGS__)

int takes_so_many(PyObject *self, PyObject *args, PyObject *names, Py_ssize_t count);
PyObject *call_the_long_way(PyTypeObject *type, PyObject *const *given, size_t count,
                            PyObject *names);

/* Whether Python has put no `__init__` or `__new__` of its own into the class, nor made it abstract,
   which `object.__new__` refuses. */
static inline bool is_plain(PyTypeObject *type, initproc init) {
    return type->tp_init == init && type->tp_new == PyBaseObject_Type.tp_new &&
           !(type->tp_flags & Py_TPFLAGS_IS_ABSTRACT);
}

#define QUICKLY(function) (PyCFunction)(void (*)(void))function
#define BEGINS(Type) {Py_tp_init, Type##_init},
#define DOES(Type) {Py_tp_methods, Type##_methods},

#endif
