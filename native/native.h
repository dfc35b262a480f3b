/* What the files of this folder share. The essay is in module.c. */

#ifndef THOUSAND_ISLAND_NATIVE_H
#define THOUSAND_ISLAND_NATIVE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdbool.h>
#include <stddef.h>

/* What `bind` is given: objects that are compared with, called or read. */
#define THINGS(X)                                                                              \
    X(OPEN) X(CLOSED_STATE) X(PARKED) X(RUNNING) X(async_recv) X(socket_recv) X(socket_send)   \
    X(monotonic)

/* Names of methods and attributes. */
#define NAMES(X)                                                                               \
    X(_await) X(_broke_off) X(_send_rest) X(after_data) X(arm) X(begin_now) X(came_early)       \
    X(close) X(drained_after) X(fileno) X(handle_data) X(look_the_long_way) X(poll_once)        \
    X(quiet) X(raised) X(receive_failed) X(received) X(recv) X(run) X(send) X(wait_anew)        \
    X(wait_recv)

#define DECLARE_OBJECT(name) PyObject *name;
#define DECLARE_TYPE(name) PyTypeObject *name;

/* The types that are ours; types.h says how one is declared. */
#define TYPES(X)                                                                               \
    X(Lock) X(RLock) X(Wire) X(Stream) X(Task) X(Worker) X(Deadlines) X(WatchdogTimer)         \
    X(RunQueue) X(BlockingEstimate) X(Runner) X(Connection) X(Client) X(Machine) X(Callbacks)  \
    X(Closing) X(Socket) X(Duplex) X(Reader) X(Writer) X(TCPChannel)

/* A function of OpenSSL's: of an SSL or a BIO, these bytes, so many; how many it took or gave. */
typedef int (*OpenSSL)(void *of, void *bytes, int size);

/* The state of the module: first the objects, then all else. */
typedef struct {
    struct { THINGS(DECLARE_OBJECT) } its;
    struct { TYPES(DECLARE_TYPE) } seen;
    struct { NAMES(DECLARE_OBJECT) } name;
    struct { TYPES(DECLARE_TYPE) } type;
    /* Methods of the standard library's types, unbound: no look-up for each call. */
    PyObject *deque, *append, *fileno;
    PyTypeObject *socket_type;
    PyObject *zero, *infinite, *dontwait, *quietly, *chunk;
    /* `Classified.UNKNOWN` and `.QUICK`: of each other a thread gives its permit away before it
       calls. And `.SUSPECT`. */
    PyObject *unknown, *quick, *suspect;
    PyObject *lock_watch;
    PyObject *part, *nothing, *whole, *some; /* of `_tls.states.Unread` */
    OpenSSL ssl_read, ssl_write, bio_read, bio_write; /* none: there is no short cut */
    bool is_bound;
} Native;

/* That of the module: there is one in a process. Another interpreter gets the Python. When it has
   gone, what is left of its objects finds an empty one. */
extern Native *native;

/* A field of an object that is known to be of this type: its place, to be written. A build with
   assertions (`tox -e asan`) sees to it that it was looked at. */
#define SLOT(object, Type, slot)                                                               \
    (assert(PyObject_TypeCheck(object, native->type.Type)), &((Type *)(object))->slot)
/* What is in it, borrowed; NULL, with AttributeError: nothing is. */
#define GET(object, Type, slot) in_slot(object, SLOT(object, Type, slot))
/* The same as a new reference: of what is called, or used after anything was. */
#define HOLD(object, class, slot) Py_XNewRef(GET(object, class, slot))
/* Whether it is this very object. Not if nothing is in it, so that has to lead to the Python. */
#define IS(object, class, slot, value) (*SLOT(object, class, slot) == (value))
/* Whether it is true; -1: it raised. */
#define TRUTH(object, class, slot) truth(object, SLOT(object, class, slot))
/* Adds to a number; -1: it raised. */
#define ADD(object, class, slot, more) add_to(object, SLOT(object, class, slot), more)

/* What `Task.run` returns; and `Runner.run_batch`, where one task was alone for a while. */
enum { PARK = 0, AGAIN = 1, DONE = 2, STAYS = 3 };
/* Numbers that Python has too; the module tells its own, and `_server.accelerator` and
   `transports._tls.accelerator` compare. */
enum { CHUNK = 65536, ALONE = 64, STAY_STEPS = 256, LOOK_MOST = 64 };
enum { HAND_OFF_NS = 50000, SAMPLE_SHIFT = 4 };
enum { JOINED_MOST = 16384, HANGUP = 0x008 | 0x010 | 0x2000 };
enum { RECORD = 16384, LARGEST = RECORD + 2048 + 5, BATCH = 8, LARGE = 4096 };
#define NUMBERS(X)                                                                             \
    X(CHUNK) X(ALONE) X(STAY_STEPS) X(LOOK_MOST) X(HAND_OFF_NS) X(SAMPLE_SHIFT)                \
    X(JOINED_MOST) X(HANGUP) X(STAYS)                                                       \
    X(RECORD) X(LARGEST) X(BATCH) X(LARGE)

/* Puts a new reference into a slot. The old object goes last: its end may run anything. */
static inline void put(PyObject **field, PyObject *value) {
    PyObject *old = *field;
    *field = value;
    Py_XDECREF(old);
}

static inline void set(PyObject **field, PyObject *value) { put(field, Py_NewRef(value)); }

/* NULL with AttributeError: nothing is in this field of the object. */
PyObject *unset(PyObject *object, PyObject **field);
int odd_truth(PyObject *object, PyObject **field);

static inline PyObject *in_slot(PyObject *object, PyObject **field) {
    return *field != NULL ? *field : unset(object, field);
}

static inline int truth(PyObject *object, PyObject **field) {
    return *field == Py_True ? 1 : *field == Py_False ? 0 : odd_truth(object, field);
}

/* 0, or -1 with TypeError: whether it is one of a class or of one below it. The one that was seen
   last is known. */
#define TAKES(object, Type)                                                                    \
    (Py_TYPE(object) == native->seen.Type || is_below(object, native->type.Type,               \
                                                      &native->seen.Type)                      \
         ? 0                                                                                   \
         : not_taken(object, native->type.Type))

bool is_below(PyObject *object, PyTypeObject *type, PyTypeObject **seen);
int not_taken(PyObject *object, PyTypeObject *type);

static inline int takes(PyObject *object, PyTypeObject *type) {
    return PyObject_TypeCheck(object, type) ? 0 : not_taken(object, type);
}

static inline PyObject *call1(PyObject *method, PyObject *self) {
    PyObject *arguments[] = {self};
    return PyObject_Vectorcall(method, arguments, 1, NULL);
}

static inline PyObject *call2(PyObject *method, PyObject *self, PyObject *argument) {
    PyObject *arguments[] = {self, argument};
    return PyObject_Vectorcall(method, arguments, 2, NULL);
}

/* Calls a method for what it does; -1: it raised. */
static inline int done(PyObject *result) {
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

static inline int append(PyObject *deque, PyObject *item) {
    return done(call2(native->append, deque, item));
}

/* As `deque.popleft`. */
static inline PyObject *take_first(PyObject *deque) {
    PySequenceMethods *does = Py_TYPE(deque)->tp_as_sequence;
    bool is_one = takes(deque, (PyTypeObject *)native->deque) == 0;
    PyObject *item = is_one ? does->sq_item(deque, 0) : NULL;
    if (item != NULL && does->sq_ass_item(deque, 0, NULL) < 0)
        /* never: the first is there */
        Py_CLEAR(item);
    return item;
}

/* lock.c */
typedef struct {
    PyObject_HEAD
    PyThread_type_lock lock;
    const int *owner; /* where the thread that holds it counts; NULL: none does */
    PyObject *references;
    short rank;  /* its place in the order of `_base.locks` */
    short counts; /* it is an RLock */
    int again;   /* how often its owner holds it beyond the first time */
} Lock;

PyObject *watch_locks(PyObject *module, PyObject *watch);
PyObject *holds_any(PyObject *module, PyObject *ignored);
PyObject *holds_none(PyObject *module, PyObject *ignored);
void tell_lock_watch(PyObject *lock, int what);
enum { LOCK_WANTS, LOCK_TOOK, LOCK_GIVES, USERS_CODE };
bool lock_try(PyObject *lock);
void lock_wait(PyObject *lock); /* no signal ends it */
void lock_release(PyObject *lock);

/* Whether anybody listens to a signal, by blinker's dictionary of its receivers. */
static inline bool heard(PyObject *receivers) { return PyDict_GET_SIZE(receivers) > 0; }

/* values.c */
/* These give -1 with an exception. What they take may be NULL, which `GET` gave with one. */
int add_to(PyObject *object, PyObject **field, long more);
int read_clock(PyObject *clock, double *now);
int odd_seconds(PyObject *value, double *seconds);
int no_number(PyObject *value);
int number_of(PyObject *fd, int *number);
int descriptor(PyObject *sock, int *number);

/* The number in an `int`, whose conversion runs nothing of anybody's. */
static inline int whole(PyObject *number, long *value) {
    *value = 0;
    if (number == NULL || !PyLong_Check(number))
        return no_number(number);
    *value = PyLong_AsLong(number);
    return *value == -1 && PyErr_Occurred() ? -1 : 0;
}

static inline int seconds_of(PyObject *value, double *seconds) {
    *seconds = 0;
    if (value == NULL || !PyFloat_CheckExact(value))
        return odd_seconds(value, seconds);
    *seconds = PyFloat_AS_DOUBLE(value);
    return 0;
}

/* module.c */
char *large_room(Py_ssize_t size);
PyObject *receive_from(int fd, Py_ssize_t most, int flags);
Py_ssize_t send_to(PyObject *sock, PyObject *data);
PyObject *handled(PyObject *self, PyObject *method, PyObject *more);

/* bind.c */
int know_names(void);
PyObject *bind_all(PyObject *module, PyObject *arguments, PyObject *things);
int is_bound(void); /* -1: with RuntimeError, it is not */
PyObject *document(PyObject *module, PyObject *arguments);

/* gil.c */
double seconds_now(void);
bool gil_is_dear(void);
PyThreadState *let_go_unless_dear(void);           /* NULL: it was kept */
void take_after_short_call(PyThreadState *here);   /* of what cannot wait; NULL: it was kept */
void take_after_wait(PyThreadState *here);

/* socket.c */
/* Of a `Socket`: its `Reader` counts what the connection has received, and puts what was put back
   in front of it; a new reference. */
PyObject *socket_received(PyObject *socket, PyObject *data, Py_ssize_t size);
PyObject *socket_channel(PyObject *socket);
/* tls.c */
PyObject *bind_tls(PyObject *module, PyObject *arguments);
int tls_drained(PyObject *source);
/* types.c */
#define DECLARE_SPEC(Type) extern PyType_Spec Type##_spec;
TYPES(DECLARE_SPEC)
PyObject *classify(PyObject *module, PyObject *args);

#endif
