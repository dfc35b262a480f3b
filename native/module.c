/* The hot path once more, in C.

   A few methods of the package are paid for by every message: the scheduler's batch and its
   look, a connection's step and stay, a socket's `send` and `recv`. They are written in
   Python, where they are explained, and that code is complete: it runs wherever this module
   was not compiled. Here are their twins. A twin does the common case, line by line as the
   Python does it, on the same objects; for whatever is not common it calls the Python, so
   that no rule is written down twice. Where Python took two thirds of the instructions of a
   PING, a twin takes a tenth.

   How it gets at the objects. The classes keep their fields in `__slots__`. A slot is a
   pointer at a fixed place in the object, and its descriptor says where; `bind` asks once.
   Classes are never changed, but for the methods that `_twins` puts in.

   The GIL. It is let go of around each system call of a message, as Python does it, so that
   whoever blocked and is back gets it soon, but not where it is hard to get back (gil.c).
   Nothing depends on this; what two threads share is under the same locks as in Python. A
   build without the GIL does not get this module.

   References. A slot may be changed by any callback, so what is used after one is held. */

#include "native.h"

#include <errno.h>
#include <pthread.h>
#include <structmember.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/timerfd.h>
#include <sys/socket.h>
#include <stddef.h>
#include <time.h>

Native native;
static pthread_key_t room_key, large_room_key;

/* A buffer for the calling thread, which ends with it: a receive into the bytes object itself
   would allocate as much each time, and give most of it back. `size`: always the same. */
static char *room(pthread_key_t key, size_t size) {
    char *mine = pthread_getspecific(key);
    if (mine == NULL) {
        mine = malloc(size);
        if (mine == NULL || pthread_setspecific(key, mine) != 0) {
            free(mine);
            PyErr_NoMemory();
            return NULL;
        }
    }
    return mine;
}

char *large_room(Py_ssize_t size) { return room(large_room_key, size); }

int add_to(PyObject **field, long long more) {
    long long known = PyLong_AsLongLong(*field);
    if (known == -1 && PyErr_Occurred())
        return -1;
    PyObject *sum = PyLong_FromLongLong(known + more);
    if (sum == NULL)
        return -1;
    put(field, sum);
    return 0;
}

int seconds_of(PyObject *value, double *seconds) {
    *seconds = PyFloat_AsDouble(value);
    return *seconds == -1.0 && PyErr_Occurred() ? -1 : 0;
}

int read_clock(PyObject *clock, double *now) {
    if (clock == native.its.monotonic) { /* it reads this clock, too */
        struct timespec time_now;
        clock_gettime(CLOCK_MONOTONIC, &time_now);
        *now = (double)time_now.tv_sec + (double)time_now.tv_nsec * 1e-9;
        return 0;
    }
    PyObject *seconds = PyObject_CallNoArgs(clock);
    if (seconds == NULL)
        return -1;
    int failed = seconds_of(seconds, now);
    Py_DECREF(seconds);
    return failed;
}

/* The number of a `socket.socket`; -1 if it is closed, or with an exception. */
int descriptor(PyObject *sock) {
    PyObject *number = call1(native.fileno, sock);
    if (number == NULL)
        return -1;
    int fd = (int)PyLong_AsLong(number);
    Py_DECREF(number);
    return fd;
}

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
    int fd = descriptor(sock);
    if (fd < 0 && PyErr_Occurred())
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

/* The Python of a twin, with the twin's arguments. */
PyObject *call_original(PyObject *original, PyObject *self, PyObject *const *args,
                        Py_ssize_t count, PyObject *names) {
    PyObject *all[8] = {self};
    Py_ssize_t words = names == NULL ? 0 : PyTuple_GET_SIZE(names);
    if (count + words > 7)
        return PyErr_Format(PyExc_TypeError, "too many arguments");
    for (Py_ssize_t index = 0; index < count + words; index++)
        all[index + 1] = args[index];
    return PyObject_Vectorcall(original, all, count + 1, names);
}

/* ---- how it is put in ---------------------------------------------------- */

PyObject *find_thing(PyObject *things, const char *name) {
    PyObject *thing = PyDict_GetItemString(things, name);
    if (thing == NULL)
        PyErr_Format(PyExc_TypeError, "bind: no %s", name);
    return Py_XNewRef(thing);
}

int find_slot(PyObject *things, const char *class, const char *slot, Py_ssize_t *at) {
    PyObject *type = find_thing(things, class);
    PyObject *found = type == NULL ? NULL : PyObject_GetAttrString(type, slot);
    Py_XDECREF(type);
    if (found == NULL)
        return -1;
    int wrong = !Py_IS_TYPE(found, &PyMemberDescr_Type);
    if (wrong)
        PyErr_Format(PyExc_TypeError, "%s.%s is no slot", class, slot);
    else
        *at = ((PyMemberDescrObject *)found)->d_member->offset;
    Py_DECREF(found);
    return -wrong;
}

static PyObject *attribute_of(const char *module, const char *type, const char *name) {
    PyObject *from = PyImport_ImportModule(module);
    PyObject *class = from == NULL ? NULL : PyObject_GetAttrString(from, type);
    PyObject *found = class == NULL ? NULL : PyObject_GetAttrString(class, name);
    Py_XDECREF(class);
    Py_XDECREF(from);
    return found;
}

static int know_the_standard_library(void) {
    PyObject *from = PyImport_ImportModule("socket");
    if (from == NULL)
        return -1;
    native.socket_type = (PyTypeObject *)PyObject_GetAttrString(from, "socket");
    native.dontwait = PyObject_GetAttrString(from, "MSG_DONTWAIT");
    Py_DECREF(from);
    native.popleft = attribute_of("collections", "deque", "popleft");
    native.append = attribute_of("collections", "deque", "append");
    native.fileno = attribute_of("_socket", "socket", "fileno");
    native.epoll_fileno = attribute_of("select", "epoll", "fileno");
    native.zero = PyLong_FromLong(0);
    native.chunk = PyLong_FromLong(CHUNK);
    native.handle_data = PyUnicode_InternFromString("handle_data");
    return PyErr_Occurred() ? -1 : 0;
}

/* Their documentation comes with `twin`. */
static PyMethodDef twins[] = {
    {"run", native_run, METH_NOARGS, NULL},
    {"stay", (PyCFunction)(void (*)(void))native_stay, METH_FASTCALL, NULL},
    {"_become", native_become, METH_O, NULL},
    {"_run_batch", native_run_batch, METH_O, NULL},
    {"_look", native_look, METH_O, NULL},
    {"send", (PyCFunction)(void (*)(void))native_send, METH_FASTCALL | METH_KEYWORDS, NULL},
    {"recv", (PyCFunction)(void (*)(void))native_recv, METH_FASTCALL | METH_KEYWORDS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyObject *twin(PyObject *Py_UNUSED(module), PyObject *arguments) {
    PyTypeObject *type;
    const char *name, *documentation;
    if (!PyArg_ParseTuple(arguments, "O!ss", &PyType_Type, &type, &name, &documentation))
        return NULL;
    PyMethodDef *method = twins;
    while (method->ml_name != NULL && strcmp(method->ml_name, name) != 0)
        method++;
    if (method->ml_name == NULL)
        return PyErr_Format(PyExc_LookupError, "no twin of %s", name);
    method->ml_doc = strdup(documentation); /* once, and for good */
    return method->ml_doc == NULL ? PyErr_NoMemory() : PyDescr_NewMethod(type, method);
}

static PyObject *bind_all(PyObject *Py_UNUSED(module), PyObject *arguments, PyObject *things) {
    if (!PyArg_ParseTuple(arguments, "") || things == NULL)
        return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_TypeError, "bind takes things");
    if (native.missing != NULL) /* by another interpreter of this process, or before a reload */
        return PyErr_Format(PyExc_RuntimeError, "bind: the module is taken");
#define FIND_SLOT(class, slot)                                                                 \
    if (find_slot(things, #class, #slot, &native.at.class##__##slot) < 0)                      \
        return NULL;
    FIELDS(FIND_SLOT)
#define KEEP_THING(thing)                                                                      \
    if ((native.its.thing = find_thing(things, #thing)) == NULL)                               \
        return NULL;
    THINGS(KEEP_THING)
#define KEEP_NAME(word)                                                                        \
    if ((native.name.word = PyUnicode_InternFromString(#word)) == NULL)                        \
        return NULL;
    NAMES(KEEP_NAME)
    if (!PyDict_Check(native.its.async_recv) || !PyDict_Check(native.its.socket_recv) ||
        !PyDict_Check(native.its.socket_send))
        return PyErr_Format(PyExc_TypeError, "bind: blinker keeps receivers in no dict");
    if (know_the_standard_library() < 0)
        return NULL;
    native.missing = find_thing(things, "MISSING");
    if (native.missing == NULL)
        return NULL;
    Py_RETURN_NONE;
}

/* How many bytes lie unread; -1: the descriptor is none. `fcntl.ioctl` takes 5,000 instructions
   more, for it tries which kind of argument it was given. */
static PyObject *unread(PyObject *Py_UNUSED(module), PyObject *number) {
    int fd = (int)PyLong_AsLong(number), bytes = 0;
    if (fd == -1 && PyErr_Occurred())
        return NULL;
    return PyLong_FromLong(ioctl(fd, FIONREAD, &bytes) == 0 ? bytes : -1);
}

/* sendfile(2) that does not wait: how many bytes, `None`: there is no room. It knows no
   MSG_DONTWAIT, so the descriptor, which is a blocking one, is another kind meanwhile; all three
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
        sent = sendfile(fd, file, &begin, count);
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
    {"bind_tls", (PyCFunction)(void (*)(void))bind_tls, METH_VARARGS | METH_KEYWORDS,
     "The same for TLS; gives the two twins."},
    {"watch_locks", watch_locks, METH_O,
     "watch_locks(watch): from now on watch(lock, rank, what) is told of each lock; None: no more."},
    {"twin", twin, METH_VARARGS,
     "twin(type, name, documentation): the method that takes its place."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "thousand_island_sync._native",
    .m_doc = "The hot path once more, in C: see `thousand_island_sync._twins`.",
    .m_size = -1,
    .m_methods = functions,
};

PyMODINIT_FUNC PyInit__native(void) {
    static bool begun;
    if (!begun && (pthread_key_create(&room_key, free) != 0 ||
                   pthread_key_create(&large_room_key, free) != 0))
        return PyErr_NoMemory();
    begun = true;
    PyObject *module = PyModule_Create(&definition);
#define TELL(number) PyModule_AddIntConstant(module, #number, number) < 0 ||
    if (module == NULL || NUMBERS(TELL) PyModule_AddType(module, &Lock_Type) < 0 ||
        PyModule_AddType(module, &RLock_Type) < 0)
        Py_CLEAR(module);
    return module;
}
