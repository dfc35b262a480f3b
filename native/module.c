/* The hot path once more, in C.

   A few methods of the package are paid for by every message: the scheduler's batch and its
   look, a connection's step and stay, a socket's `send` and `recv`. They are written in
   Python, where they are explained, and that code is complete: it runs wherever this module
   was not compiled. Here are their accelerators. Each does the common case, line by line as
   the Python does it, on the same objects; for whatever is not common it calls the Python, so
   that no rule is written down twice. Where Python took two thirds of the instructions of a
   PING, they take a tenth.

   How they get at the objects. Each has a base type here (types.c), with an equal in Python, and
   in it the fields that the C reads. Whoever inherits from the one inherits from the other where
   nothing was compiled.

   The GIL. It is let go of around each system call of a message, as Python does it, so that
   whoever blocked and is back gets it soon, but not where it is hard to get back (gil.c).
   Nothing depends on this; what two threads share is under the same locks as in Python. A
   build without the GIL does not get this module.

   References. A slot may be changed by any callback, so what is used after one is held. */

#include "native.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/timerfd.h>
#include <sys/socket.h>

static pthread_key_t room_key, large_room_key;

/* A buffer for the calling thread, which ends with it: a receive into the bytes object itself
   would allocate as much each time, and give most of it back. `size`: always the same. */
static char *room(pthread_key_t key, size_t size) {
    char *mine = pthread_getspecific(key);
    if (mine == NULL) {
        mine = PyMem_RawMalloc(size);
        if (mine == NULL || pthread_setspecific(key, mine) != 0) {
            PyMem_RawFree(mine);
            PyErr_NoMemory();
            return NULL;
        }
    }
    return mine;
}

char *large_room(Py_ssize_t size) { return room(large_room_key, size); }

/* recv(2) of at most CHUNK bytes: bytes, or `None` for none yet. NULL: it raised, and errno is
   as it was left. */
PyObject *receive_from(int fd, Py_ssize_t most, int flags) {
    char *buffer = room(room_key, CHUNK);
    if (buffer == NULL)
        return NULL;
    ssize_t size;
    if (flags & MSG_DONTWAIT) {
        PyThreadState *here = let_go_unless_dear();
        size = recv(fd, buffer, most, flags);
        take_after_short_call(here);
    } else {
        PyThreadState *here = PyEval_SaveThread();
        size = recv(fd, buffer, most, flags);
        take_after_wait(here);
    }
    if (size >= 0)
        return PyBytes_FromStringAndSize(buffer, size);
    if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)
        Py_RETURN_NONE;
    int met = errno;
    PyErr_SetFromErrno(PyExc_OSError);
    errno = met;
    return NULL;
}

/* send(2) that does not wait: how many bytes went out, 0: there is no room. -1: it raised. */
Py_ssize_t send_to(PyObject *sock, PyObject *data) {
    int fd;
    if (descriptor(sock, &fd) < 0)
        return -1;
    Py_ssize_t size = PyBytes_GET_SIZE(data);
    PyThreadState *here = size > LARGE ? PyEval_SaveThread() : let_go_unless_dear();
    ssize_t sent = send(fd, PyBytes_AS_STRING(data), size, MSG_DONTWAIT | MSG_NOSIGNAL);
    take_after_short_call(here);
    if (sent >= 0)
        return sent;
    if (errno == EAGAIN || errno == EWOULDBLOCK)
        return 0;
    PyErr_SetFromErrno(PyExc_OSError);
    return -1;
}

/* `except BaseException as error: return self.method(error[, more])` */
PyObject *handled(PyObject *self, PyObject *method, PyObject *more) {
#if PY_VERSION_HEX >= 0x030c0000
    PyObject *error = PyErr_GetRaisedException();
#else
    PyObject *kind, *error, *traceback;
    PyErr_Fetch(&kind, &error, &traceback);
    PyErr_NormalizeException(&kind, &error, &traceback);
    if (traceback != NULL)
        PyException_SetTraceback(error, traceback);
    Py_XDECREF(kind);
    Py_XDECREF(traceback);
#endif
    PyObject *before = PyErr_GetHandledException();
    PyErr_SetHandledException(error);
    PyObject *result = PyObject_CallMethodObjArgs(self, method, error, more, NULL);
    PyErr_SetHandledException(before);
    Py_XDECREF(before);
    Py_DECREF(error);
    return result;
}

/* How many bytes lie unread; -1: the descriptor is none. `fcntl.ioctl` takes 5,000 instructions
   more, for it tries which kind of argument it was given. */
static PyObject *unread(PyObject *Py_UNUSED(module), PyObject *number) {
    int fd = (int)PyLong_AsLong(number), bytes = 0;
    if (fd == -1 && PyErr_Occurred())
        return NULL;
    return PyLong_FromLong(ioctl(fd, FIONREAD, &bytes) == 0 ? bytes : -1);
}

/* sendfile(2) without SIGPIPE: as `_sigpipe.sendfile`, where it is explained. */
static ssize_t quiet_sendfile(int fd, int file, off_t *begin, Py_ssize_t count) {
    sigset_t pipe, before;
    sigemptyset(&pipe);
    sigaddset(&pipe, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &pipe, &before);
    ssize_t sent = sendfile(fd, file, begin, count);
    int error = errno;
    if (sent < 0 && error == EPIPE && !sigismember(&before, SIGPIPE))
        sigtimedwait(&pipe, NULL, &(struct timespec){0, 0});
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    errno = error;
    return sent;
}

/* sendfile(2) that does not wait: how many bytes, `None`: there is no room. It knows no
   MSG_DONTWAIT, so the descriptor, which is a blocking one, is another kind meanwhile; all of its
   calls are one stretch without the GIL. */
static PyObject *send_file(PyObject *Py_UNUSED(module), PyObject *arguments) {
    int fd, file, on = 1, off = 0, error;
    long long offset;
    Py_ssize_t count;
    if (!PyArg_ParseTuple(arguments, "iiLn", &fd, &file, &offset, &count))
        return NULL;
    off_t begin = offset;
    ssize_t sent = -1;
    Py_BEGIN_ALLOW_THREADS
    if (ioctl(fd, FIONBIO, &on) == 0) {
        sent = quiet_sendfile(fd, file, &begin, count);
        error = errno;
        ioctl(fd, FIONBIO, &off);
        errno = error;
    }
    Py_END_ALLOW_THREADS
    if (sent >= 0)
        return PyLong_FromSsize_t(sent);
    if (errno == EAGAIN || errno == EWOULDBLOCK)
        Py_RETURN_NONE;
    return PyErr_SetFromErrno(PyExc_OSError);
}

/* timerfd_create(2) and timerfd_settime(2), which the standard library has since 3.13. */
static PyObject *timer_open(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored)) {
    int fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    return fd < 0 ? PyErr_SetFromErrno(PyExc_OSError) : PyLong_FromLong(fd);
}

static PyObject *timer_set(PyObject *Py_UNUSED(module), PyObject *arguments) {
    int fd;
    double seconds;
    if (!PyArg_ParseTuple(arguments, "id", &fd, &seconds))
        return NULL;
    struct itimerspec when = {.it_value.tv_sec = (time_t)seconds};
    when.it_value.tv_nsec = (long)((seconds - (double)when.it_value.tv_sec) * 1e9);
    if (timerfd_settime(fd, 0, &when, NULL) < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"send_file", send_file, METH_VARARGS,
     "send_file(fd, file, offset, count): sendfile(2) that does not wait; None: no room."},
    {"timer_open", timer_open, METH_NOARGS, "timer_open(): timerfd_create(2)."},
    {"timer_set", timer_set, METH_VARARGS,
     "timer_set(fd, seconds): timerfd_settime(2), from now on; 0 stops it."},
    {"unread", unread, METH_O, "How many bytes of a descriptor lie unread; -1: it is closed."},
    {"bind", (PyCFunction)(void (*)(void))bind_all, METH_VARARGS | METH_KEYWORDS,
     "Gives the module the classes and objects that it works on."},
    {"bind_tls", bind_tls, METH_VARARGS, "Gives `TLSStream` the functions of OpenSSL."},
    {"classify", classify, METH_VARARGS, "classify(unknown, quick, suspect): a new task is the first."},
    {"holds_any", holds_any, METH_NOARGS, "Whether the calling thread has any RLock."},
    {"holds_none", holds_none, METH_NOARGS,
     "It has none, whatever was counted: in a forked child."},
    {"watch_locks", watch_locks, METH_O,
     "watch_locks(watch): watch(lock, rank, what) is told of each lock; None: no more."},
    {"document", document, METH_VARARGS,
     "document(type, name, text): what the Python equal of a method says of it."},
    {NULL, NULL, 0, NULL},
};

#ifndef NATIVE_SOURCES
#error "NATIVE_SOURCES: the digest of these files, as setup.py gives it; Python compares it"
#endif

/* ---- the module ---------------------------------------------------------------- */

static Native nobody;
Native *native = &nobody;

enum { OBJECTS = offsetof(Native, ssl_read) / sizeof(PyObject *) };

static int traverse_state(PyObject *module, visitproc visit, void *arg) {
    PyObject **objects = PyModule_GetState(module);
    for (int which = 0; which < OBJECTS; which++)
        Py_VISIT(objects[which]);
    return 0;
}

static int clear_state(PyObject *module) {
    PyObject **objects = PyModule_GetState(module);
    for (int which = 0; which < OBJECTS; which++)
        Py_CLEAR(objects[which]);
    return 0;
}

static void free_state(void *module) {
    clear_state(module);
    if (native == PyModule_GetState(module))
        native = &nobody;
}

static int know_keys(void) {
    static bool known;
    if (known)
        return 0;
    if (pthread_key_create(&room_key, PyMem_RawFree) != 0) {
        PyErr_NoMemory();
        return -1;
    }
    if (pthread_key_create(&large_room_key, PyMem_RawFree) != 0) {
        pthread_key_delete(room_key);
        PyErr_NoMemory();
        return -1;
    }
    known = true;
    return 0;
}

static int add_type(PyObject *module, PyType_Spec *spec, PyTypeObject **type) {
    *type = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, NULL);
    if (*type == NULL && !PyErr_Occurred()) /* CPython 3.11, without memory for the name */
        PyErr_NoMemory();
    return *type == NULL ? -1 : PyModule_AddType(module, *type);
}

static int execute(PyObject *module) {
    if (native != &nobody) {
        PyErr_SetString(PyExc_ImportError, "_native: another interpreter of this process has it");
        return -1;
    }
    native = PyModule_GetState(module);
#define TELL(number) PyModule_AddIntConstant(module, #number, number) < 0 ||
#define ADD_TYPE(Type) add_type(module, &Type##_spec, &native->type.Type) < 0 ||
    if (know_keys() < 0 || know_names() < 0 || NUMBERS(TELL) TYPES(ADD_TYPE)
        PyModule_AddStringConstant(module, "SOURCES", NATIVE_SOURCES) < 0) {
        free_state(module);
        return -1;
    }
    return 0;
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, execute},
#if PY_VERSION_HEX >= 0x030c0000
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "thousand_island_sync._native",
    .m_doc = "The hot path once more, in C: see `thousand_island_sync._server.accelerator`.",
    .m_size = sizeof(Native),
    .m_methods = functions,
    .m_slots = slots,
    .m_traverse = traverse_state,
    .m_clear = clear_state,
    .m_free = free_state,
};

PyMODINIT_FUNC PyInit__native(void) { return PyModuleDef_Init(&definition); }
