/* What the files of this folder share. The essay is in module.c. */

#ifndef THOUSAND_ISLAND_NATIVE_H
#define THOUSAND_ISLAND_NATIVE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdbool.h>

/* The slots that are read and written here: (class, as it is given to `bind`; slot). */
#define FIELDS(X)                                                                              \
    X(Task, alert) X(Task, attached) X(Task, blocks) X(Task, deadline) X(Task, fd)             \
    X(Task, hung_up) X(Task, marked) X(Task, no_sample) X(Task, owned) X(Task, sampled)        \
    X(Task, timer_at) X(Task, wants_write)                                                     \
    X(Worker, looking) X(Worker, parked) X(Worker, permit) X(Worker, task) X(Worker, turn)     \
    X(Worker, waited)                                                                          \
    X(Wanted, pool) X(Wanted, quick) X(Wanted, task) X(Wanted, worker)                         \
    X(Scheduler, _alarm_may_stop) X(Scheduler, _alone) X(Scheduler, _batch) X(Scheduler, _bound) X(Scheduler, _clock)        \
    X(Scheduler, _closing) X(Scheduler, _count) X(Scheduler, _holders) X(Scheduler, _idle)     \
    X(Scheduler, _last_found) X(Scheduler, _lock) X(Scheduler, _next_timer)                    \
    X(Scheduler, _poller) X(Scheduler, _ready) X(Scheduler, _ring) X(Scheduler, _sample_mask)  \
    X(Scheduler, _sleepers) X(Scheduler, _tasks) X(Scheduler, _unlooked)                       \
    X(Scheduler, _watching)                                                                    \
    X(Lifecycle, _clock) X(Lifecycle, _context) X(Lifecycle, _on_data)                         \
    X(Lifecycle, _read_deadline) X(Lifecycle, _short_proves) X(Lifecycle, _socket)             \
    X(Lifecycle, _source) X(Lifecycle, _state) X(Lifecycle, read_timeout)                      \
    X(Socket, _answered) X(Socket, _buffer) X(Socket, _bytes_received) X(Socket, _bytes_sent)  \
    X(Socket, _channel) X(Socket, _closed) X(Socket, _recv_count) X(Socket, _send_count)       \
    X(Socket, _sending) X(Socket, _sink) X(Socket, _sock) X(Socket, _waiter)                   \
    X(TCPChannel, _receive_timeout) X(TCPChannel, _sock)

/* Everything else that `bind` is given: objects that are compared with, called or read. */
#define THINGS(X)                                                                              \
    X(Task) X(Worker) X(Wanted) X(Scheduler) X(Lifecycle) X(Socket) X(TCPChannel)              \
    X(EpollPoller) X(PARKED) X(RUNNING) X(async_recv) X(socket_recv) X(socket_send)            \
    X(make_way) X(monotonic) X(run) X(stay) X(run_batch) X(look) X(send) X(recv) X(become)     \
    X(HAND_OVER_COST) X(TRANSITIONS)

/* Names of methods and attributes. */
#define NAMES(X)                                                                               \
    X(_after_data) X(_arm) X(_be_watched) X(_behind_unread) X(_broke_off) X(_came_early)       \
    X(_drained_after) X(_end_of_stream) X(_epoll) X(_fire) X(_nothing_there) X(_put_back)      \
    X(_raised) X(_receive_failed) X(_run_measured) X(_send) X(_set_alarm) X(_stay_alone)       \
    X(_stop_alarm) X(_tell) X(_tell_arrival) X(_tell_sent) X(_without_permit) X(recv) X(run)   \
    X(send) X(wait_recv) X(wake)

#define DECLARE_FIELD(class, slot) Py_ssize_t class##__##slot;
#define DECLARE_OBJECT(name) PyObject *name;

typedef struct {
    struct { FIELDS(DECLARE_FIELD) } at; /* where in an object each slot is */
    struct { THINGS(DECLARE_OBJECT) } its;
    struct { NAMES(DECLARE_OBJECT) } name;
    /* Methods of the standard library's types, unbound: no look-up for each call. */
    PyObject *popleft, *append, *fileno, *epoll_fileno;
    PyTypeObject *socket_type;
    PyObject *missing, *zero, *dontwait, *chunk, *handle_data;
} Native;

extern Native native;

#define FIELD(object, class, slot)                                                             \
    (*(PyObject **)((char *)(object) + native.at.class##__##slot))

/* What `Task.run` returns. */
enum { PARK = 0, AGAIN = 1, DONE = 2 };
/* Numbers that Python has too; the module tells its own, and `_twins` and `_tls_twins` compare. */
enum { CHUNK = 65536, ALONE = 64, STAY_STEPS = 256, LOOK_MOST = 64, SAMPLE_SHIFT = 4 };
enum { JOINED_MOST = 16384, HANGUP = 0x008 | 0x010 | 0x2000 };
enum { RECORD = 16384, LARGEST = RECORD + 2048 + 5, BATCH = 8, LARGE = 4096 };
#define NUMBERS(X)                                                                             \
    X(CHUNK) X(ALONE) X(STAY_STEPS) X(LOOK_MOST) X(SAMPLE_SHIFT) X(JOINED_MOST) X(HANGUP)      \
    X(RECORD) X(LARGEST) X(BATCH) X(LARGE)

/* Puts a new reference into a slot. The old object goes last: its end may run anything. */
static inline void put(PyObject **field, PyObject *value) {
    PyObject *old = *field;
    *field = value;
    Py_XDECREF(old);
}

static inline void set(PyObject **field, PyObject *value) { put(field, Py_NewRef(value)); }

static inline bool is_true(PyObject *flag) { return flag == Py_True; }

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
    return done(call2(native.append, deque, item));
}

/* lock.c */
typedef struct {
    PyObject_HEAD
    PyThread_type_lock lock;
    unsigned long owner; /* the thread that holds it; 0: none does */
    PyObject *references;
    int rank;  /* its place in the order of `_locks` */
    int again; /* how often its owner holds it beyond the first time */
} Lock;

extern PyTypeObject Lock_Type, RLock_Type;
extern PyObject *lock_watch;
PyObject *watch_locks(PyObject *module, PyObject *watch);
void tell_lock_watch(PyObject *lock, int what);
enum { LOCK_WANTS, LOCK_TOOK, LOCK_GIVES, USERS_CODE };
bool lock_try(PyObject *lock);
int lock_wait(PyObject *lock); /* -1: a signal's handler raised */
void lock_release(PyObject *lock);

/* Whether anybody listens to a signal, by blinker's dictionary of its receivers. */
static inline bool heard(PyObject *receivers) { return PyDict_GET_SIZE(receivers) > 0; }

/* module.c */
int add_to(PyObject **field, long long more);
int read_clock(PyObject *clock, double *now);
int seconds_of(PyObject *value, double *seconds);
int descriptor(PyObject *sock);
char *large_room(Py_ssize_t size);
PyObject *receive_from(int fd, Py_ssize_t most, int flags);
Py_ssize_t send_to(PyObject *sock, PyObject *data);
PyObject *handled(PyObject *self, PyObject *method, PyObject *more);
PyObject *call_original(PyObject *original, PyObject *self, PyObject *const *args,
                        Py_ssize_t count, PyObject *names);
int find_slot(PyObject *things, const char *class, const char *slot, Py_ssize_t *at);
PyObject *find_thing(PyObject *things, const char *name);

/* gil.c */
bool gil_is_dear(void);
PyThreadState *let_go_unless_dear(void);           /* NULL: it was kept */
void take_after_short_call(PyThreadState *here);   /* of what cannot wait; NULL: it was kept */
void take_after_wait(PyThreadState *here);

/* connection.c */
PyObject *native_run(PyObject *self, PyObject *ignored);
PyObject *native_become(PyObject *self, PyObject *state);
PyObject *native_stay(PyObject *self, PyObject *const *args, Py_ssize_t count);
/* socket.c */
PyObject *native_send(PyObject *, PyObject *const *, Py_ssize_t, PyObject *);
PyObject *native_recv(PyObject *, PyObject *const *, Py_ssize_t, PyObject *);
/* tls.c */
PyObject *bind_tls(PyObject *module, PyObject *arguments, PyObject *things);
int tls_drained(PyObject *channel);
/* loop.c */
PyObject *native_run_batch(PyObject *self, PyObject *worker);
PyObject *native_look(PyObject *self, PyObject *worker);

#endif
