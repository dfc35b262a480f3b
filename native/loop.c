/* The twins of `Scheduler._run_batch` and `Queue._look`. */

#include "native.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <sys/epoll.h>
#include <sys/resource.h>

_Static_assert(HANGUP == (EPOLLERR | EPOLLHUP | EPOLLRDHUP), "as in `_poller`");

static int whole(PyObject *number, long *value) {
    *value = PyLong_AsLong(number);
    return *value == -1 && PyErr_Occurred() ? -1 : 0;
}

static int put_number(PyObject **field, long value) {
    PyObject *number = PyLong_FromLong(value);
    if (number == NULL)
        return -1;
    put(field, number);
    return 0;
}

static int is_a_task(PyObject *task) {
    if (PyObject_TypeCheck(task, (PyTypeObject *)native.its.Task))
        return 0;
    PyErr_Format(PyExc_TypeError, "the scheduler got %.100s, takes a Task", Py_TYPE(task)->tp_name);
    return -1;
}

static long voluntary_switches(void) {
    struct rusage used;
    return getrusage(RUSAGE_THREAD, &used) == 0 ? used.ru_nvcsw : 0;
}

/* As `_run_measured`, of a task that is not taken for blocking, nor its class. */
static PyObject *run_timed(PyObject *worker, PyObject *task, long turn) {
    double began, over, cost;
    /* Not always the same place in a row of callbacks that repeats itself. */
    if (put_number(&FIELD(worker, Worker, turn), turn + (turn >> SAMPLE_SHIFT & 1)) < 0 ||
        seconds_of(native.its.HAND_OVER_COST, &cost) < 0 ||
        read_clock(native.its.monotonic, &began) < 0)
        return NULL;
    set(&FIELD(task, Task, no_sample), Py_False);
    set(&FIELD(worker, Worker, waited), Py_False);
    long switches = voluntary_switches();
    PyObject *verdict = PyObject_CallMethodNoArgs(task, native.name.run);
    if (verdict == NULL || read_clock(native.its.monotonic, &over) < 0)
        return verdict;
    bool told = !is_true(FIELD(worker, Worker, waited)) && !is_true(FIELD(task, Task, no_sample));
    if (over - began > cost && told && voluntary_switches() != switches) {
        /* A suspect: its next run is measured, and others make way for it. */
        set(&FIELD(task, Task, blocks), Py_True);
        set(&FIELD(task, Task, sampled), Py_False);
    }
    return verdict;
}

/* A verdict; -1: the run raised. */
static int run_one(PyObject *self, PyObject *worker, PyObject *task, long mask) {
    long turn;
    if (whole(FIELD(worker, Worker, turn), &turn) < 0)
        return -1;
    if (put_number(&FIELD(worker, Worker, turn), ++turn) < 0)
        return -1;
    PyObject *verdict;
    bool quick = FIELD(task, Task, blocks) == Py_False;
    if (quick && turn & mask)
        verdict = PyObject_CallMethodNoArgs(task, native.name.run);
    else if (quick && mask != 0 && Py_IS_TYPE(self, (PyTypeObject *)native.its.Scheduler))
        verdict = run_timed(worker, task, turn);
    else
        verdict = PyObject_CallMethodObjArgs(self, native.name._run_measured, worker, task, NULL);
    if (verdict == NULL)
        return -1;
    int number = (int)PyLong_AsLong(verdict);
    Py_DECREF(verdict);
    return number == -1 && !PyErr_Occurred() ? DONE : number;
}

PyObject *native_run_batch(PyObject *self, PyObject *worker) {
    if (!Py_IS_TYPE(worker, (PyTypeObject *)native.its.Worker))
        return call2(native.its.run_batch, self, worker);
    PyObject *ready = FIELD(self, Scheduler, _ready), *parked = FIELD(worker, Worker, parked);
    long mask, batch, alone;
    if (whole(FIELD(self, Scheduler, _sample_mask), &mask) < 0 ||
        whole(FIELD(self, Scheduler, _batch), &batch) < 0)
        return NULL;
    Py_ssize_t waiting = PyObject_Size(ready);
    if (waiting > 0 && is_true(FIELD(worker, Worker, permit)) &&
        !is_true(FIELD(self, Scheduler, _watching)) &&
        done(PyObject_CallMethodNoArgs(self, native.name._be_watched)) < 0)
        return NULL;
    for (Py_ssize_t left = waiting < batch ? waiting : batch; left > 0; left--) {
        PyObject *task = call1(native.popleft, ready);
        if (task == NULL) {
            if (!PyErr_ExceptionMatches(PyExc_IndexError))
                return NULL;
            PyErr_Clear(); /* another thread was quicker */
            break;
        }
        if (is_a_task(task) < 0) {
            Py_DECREF(task);
            return NULL;
        }
        set(&FIELD(task, Task, marked), Py_False);
        set(&FIELD(worker, Worker, task), task);
        int verdict = run_one(self, worker, task, mask), failed = verdict < 0 ? -1 : 0;
        PyObject *over = NULL;
        bool goes_on = is_true(FIELD(worker, Worker, permit));
        if (failed == 0 && goes_on) {
            if (verdict == PARK)
                failed = append(parked, task);
            else if (verdict == AGAIN)
                failed = append(ready, task);
        } else if (failed == 0) {
            PyObject *number = PyLong_FromLong(verdict);
            if (number != NULL)
                over = PyObject_CallMethodObjArgs(self, native.name._without_permit, worker, task,
                                                  number, NULL);
            Py_XDECREF(number);
        }
        Py_DECREF(task);
        if (failed < 0 || !goes_on)
            return over;
    }
    set(&FIELD(worker, Worker, task), Py_None);
    set(&FIELD(self, Scheduler, _unlooked), FIELD(self, Scheduler, _batch));
    if (whole(FIELD(self, Scheduler, _alone), &alone) < 0)
        return NULL;
    if (alone >= ALONE)
        return PyObject_CallMethodOneArg(self, native.name._stay_alone, worker);
    Py_RETURN_NONE;
}

/* ---- a look -------------------------------------------------------------- */

/* With the lock: as `_settle`, of a poller that needs no rearming. */
static int settle(PyObject *self, PyObject *worker) {
    PyObject *parked = FIELD(worker, Worker, parked);
    for (Py_ssize_t left = PyObject_Size(parked); left > 0; left--) {
        PyObject *task = call1(native.popleft, parked);
        if (task == NULL)
            return -1;
        int failed = 0;
        double deadline, timer_at;
        if (is_true(FIELD(task, Task, marked))) {
            failed = append(FIELD(self, Scheduler, _ready), task);
        } else {
            set(&FIELD(task, Task, owned), Py_False);
            failed = seconds_of(FIELD(task, Task, deadline), &deadline);
            failed |= seconds_of(FIELD(task, Task, timer_at), &timer_at);
            if (failed == 0 && deadline < timer_at) {
                PyObject *wakes = PyObject_CallMethodOneArg(self, native.name._arm, task);
                failed = wakes == NULL ? -1 : 0;
                if (wakes == Py_True)
                    failed = done(PyObject_CallMethodNoArgs(FIELD(self, Scheduler, _poller),
                                                            native.name.wake));
                Py_XDECREF(wakes);
            }
            if (failed == 0 && !is_true(FIELD(task, Task, attached)))
                failed = done(PyObject_CallMethodOneArg(self, native.name._put_back, task));
        }
        Py_DECREF(task);
        if (failed < 0)
            return -1;
    }
    return 0;
}

/* With the lock: milliseconds that the look may wait, rounded up; -1: for ever; -2: raised. */
static int may_wait(PyObject *self) {
    if (PyObject_Size(FIELD(self, Scheduler, _ready)) > 0)
        return 0;
    if (is_true(FIELD(self, Scheduler, _closing)) &&
        PyDict_GET_SIZE(FIELD(self, Scheduler, _tasks)) == 0)
        return 0;
    double when, now;
    if (seconds_of(FIELD(self, Scheduler, _next_timer), &when) < 0)
        return -2;
    if (isinf(when))
        return -1;
    if (read_clock(FIELD(self, Scheduler, _clock), &now) < 0)
        return -2;
    double left = ceil((when - now) * 1000);
    return left <= 0 ? 0 : left >= INT_MAX ? INT_MAX : (int)left;
}

/* With the lock: puts what the events made ready into the queue; the last descriptor of
   which that is so, or -1. -2: raised. */
static int take_in(PyObject *self, const struct epoll_event *events, int count) {
    PyObject *tasks = FIELD(self, Scheduler, _tasks), *ready = FIELD(self, Scheduler, _ready);
    int found = -1;
    for (int index = 0; index < count; index++) {
        uint32_t bits = events[index].events;
        PyObject *fd = PyLong_FromLong(events[index].data.fd);
        if (fd == NULL)
            return -2;
        PyObject *task = PyDict_GetItemWithError(tasks, fd);
        Py_DECREF(fd);
        if (task == NULL) {
            if (PyErr_Occurred())
                return -2;
            continue; /* the wake-up, or just forgotten */
        }
        if (bits & HANGUP) {
            set(&FIELD(task, Task, hung_up), Py_True);
            set(&FIELD(task, Task, alert), Py_True);
        }
        if (is_true(FIELD(task, Task, owned))) {
            set(&FIELD(task, Task, marked), Py_True);
        } else if (bits != EPOLLOUT || is_true(FIELD(task, Task, wants_write))) {
            set(&FIELD(task, Task, owned), Py_True);
            if (append(ready, task) < 0)
                return -2;
            found = events[index].data.fd;
        }
    }
    return found;
}

/* With the lock: as the rest of `_absorb`. What shall happen without it is left in `rings`,
   `wakes` and `calls`. */
static int absorb(PyObject *self, PyObject *worker, const struct epoll_event *events, int count,
                  bool *rings, bool *wakes, PyObject **calls) {
    long sleepers, last, alone;
    double timer, now;
    set(&FIELD(worker, Worker, looking), Py_False);
    if (add_to(&FIELD(self, Scheduler, _sleepers), -1) < 0)
        return -1;
    int found = take_in(self, events, count);
    if (found == -2 || whole(FIELD(self, Scheduler, _last_found), &last) < 0 ||
        whole(FIELD(self, Scheduler, _alone), &alone) < 0)
        return -1;
    alone = found >= 0 && found == last && count == 1 ? alone + 1 : 0;
    if (put_number(&FIELD(self, Scheduler, _alone), alone) < 0 ||
        put_number(&FIELD(self, Scheduler, _last_found), found) < 0 ||
        seconds_of(FIELD(self, Scheduler, _next_timer), &timer) < 0)
        return -1;
    if (!isinf(timer)) {
        if (read_clock(FIELD(self, Scheduler, _clock), &now) < 0)
            return -1;
        if (timer <= now &&
            (*calls = PyObject_CallMethodNoArgs(self, native.name._fire)) == NULL)
            return -1;
    }
    Py_ssize_t waiting = PyObject_Size(FIELD(self, Scheduler, _ready));
    bool begins = waiting > 0 || (*calls != NULL && PyList_GET_SIZE(*calls) > 0);
    *rings = begins && !is_true(FIELD(self, Scheduler, _watching));
    if (*rings) {
        set(&FIELD(self, Scheduler, _watching), Py_True);
        PyObject *is_set = PyObject_CallMethodNoArgs(self, native.name._set_alarm);
        if (is_set == NULL)
            return -1;
        *rings = !is_true(is_set);
        Py_DECREF(is_set);
    }
    if (whole(FIELD(self, Scheduler, _sleepers), &sleepers) < 0)
        return -1;
    *wakes = sleepers > 0 && waiting > 1;
    return 0;
}

/* Without the lock: what a look has found to do beside the queue. */
static int follow(PyObject *self, bool rings, bool wakes, PyObject *calls) {
    if (rings && done(PyObject_CallNoArgs(FIELD(self, Scheduler, _ring))) < 0)
        return -1;
    if (wakes &&
        done(PyObject_CallMethodNoArgs(FIELD(self, Scheduler, _poller), native.name.wake)) < 0)
        return -1;
    for (Py_ssize_t index = 0; calls != NULL && index < PyList_GET_SIZE(calls); index++)
        if (done(PyObject_CallNoArgs(PyList_GET_ITEM(calls, index))) < 0)
            return -1;
    return 0;
}

static int epoll_of(PyObject *poller) {
    PyObject *epoll = PyObject_GetAttr(poller, native.name._epoll);
    PyObject *number = epoll == NULL ? NULL : call1(native.epoll_fileno, epoll);
    Py_XDECREF(epoll);
    long fd = number == NULL ? -1 : PyLong_AsLong(number);
    Py_XDECREF(number);
    return (int)fd;
}

/* With the lock, which goes: what must be known before the poller is asked. 0: it may be. */
static int begin_look(PyObject *self, PyObject *worker, int *timeout) {
    if (settle(self, worker) < 0)
        return -1;
    if (!is_true(FIELD(worker, Worker, permit)))
        return 1; /* it was taken a moment ago */
    *timeout = may_wait(self);
    if (*timeout == -2)
        return -1;
    if (*timeout != 0 && is_true(FIELD(self, Scheduler, _alarm_may_stop)) &&
        done(PyObject_CallMethodNoArgs(self, native.name._stop_alarm)) < 0)
        return -1;
    set(&FIELD(worker, Worker, looking), Py_True);
    set(&FIELD(self, Scheduler, _unlooked), native.zero);
    return add_to(&FIELD(self, Scheduler, _sleepers), 1);
}

PyObject *native_look(PyObject *self, PyObject *worker) {
    PyObject *poller = FIELD(self, Scheduler, _poller), *lock = FIELD(self, Scheduler, _lock);
    if (!Py_IS_TYPE(self, (PyTypeObject *)native.its.Scheduler) ||
        !Py_IS_TYPE(poller, (PyTypeObject *)native.its.EpollPoller) ||
        !Py_IS_TYPE(worker, (PyTypeObject *)native.its.Worker) || !Py_IS_TYPE(lock, &RLock_Type))
        return call2(native.its.look, self, worker);
    int epoll = epoll_of(poller), timeout = 0;
    if (epoll < 0 || lock_wait(lock) < 0)
        return NULL;
    int first = begin_look(self, worker, &timeout);
    if (first < 0) {
        lock_release(lock);
        return NULL;
    }
    lock_release(lock);
    if (first > 0)
        Py_RETURN_FALSE;

    struct epoll_event events[LOOK_MOST];
    int count = 0, wrong = 0;
    if (timeout == 0 || gil_is_dear())
        count = epoll_wait(epoll, events, LOOK_MOST, 0);
    if (timeout != 0 && count == 0) {
        PyThreadState *here = PyEval_SaveThread();
        count = epoll_wait(epoll, events, LOOK_MOST, timeout);
        take_after_wait(here);
    }
    if (count < 0) {
        wrong = errno == EINTR ? 0 : errno; /* a signal is the main thread's */
        count = 0;
    }

    bool rings = false, wakes = false;
    PyObject *calls = NULL;
    if (lock_wait(lock) < 0)
        return NULL;
    int failed = absorb(self, worker, events, count, &rings, &wakes, &calls);
    lock_release(lock);
    if (failed == 0)
        failed = follow(self, rings, wakes, calls);
    Py_XDECREF(calls);
    if (failed == 0 && wrong != 0) {
        errno = wrong;
        PyErr_SetFromErrno(PyExc_OSError);
        failed = -1;
    }
    if (failed < 0)
        return NULL;
    Py_RETURN_TRUE;
}
