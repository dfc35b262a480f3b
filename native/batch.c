/* The twin of `Scheduler._run_batch`. */

#include "native.h"

#include <sys/resource.h>

static long voluntary_switches(void) {
    struct rusage used;
    return getrusage(RUSAGE_THREAD, &used) == 0 ? used.ru_nvcsw : 0;
}

/* As `_run_measured`, of a task that is not taken for blocking, nor its class. */
static PyObject *run_timed(PyObject *worker, PyObject *task, long turn) {
    /* Not always the same place in a row of callbacks that repeats itself. */
    if (put_number(SLOT(worker, Worker, turn), turn + (turn >> SAMPLE_SHIFT & 1)) < 0)
        return NULL;
    set(SLOT(task, Task, no_sample), Py_False);
    set(SLOT(worker, Worker, waited), Py_False);
    long switches = voluntary_switches();
    double began = seconds_now();
    PyObject *verdict = PyObject_CallMethodNoArgs(task, native.name.run);
    if (verdict == NULL || seconds_now() - began <= native.hand_over_cost)
        return verdict;
    if (IS(worker, Worker, waited, Py_False) && IS(task, Task, no_sample, Py_False) &&
        voluntary_switches() != switches) {
        /* A suspect: its next run is measured, and others make way for it. */
        set(SLOT(task, Task, blocks), Py_True);
        set(SLOT(task, Task, sampled), Py_False);
    }
    return verdict;
}

/* -1: the run raised. */
static int run_one(PyObject *self, PyObject *worker, PyObject *task, long mask, long *verdict) {
    long turn;
    if (whole(GET(worker, Worker, turn), &turn) < 0 ||
        put_number(SLOT(worker, Worker, turn), ++turn) < 0)
        return -1;
    PyObject *said;
    bool quick = IS(task, Task, blocks, Py_False);
    if (quick && turn & mask)
        said = PyObject_CallMethodNoArgs(task, native.name.run);
    else if (quick && mask != 0 && is_exactly(self, native.its.Scheduler))
        said = run_timed(worker, task, turn);
    else
        said = PyObject_CallMethodObjArgs(self, native.name._run_measured, worker, task, NULL);
    int failed = whole(said, verdict);
    Py_XDECREF(said);
    return failed;
}

static int without_permit(PyObject *self, PyObject *worker, PyObject *task, long verdict) {
    PyObject *number = PyLong_FromLong(verdict);
    if (number == NULL)
        return -1;
    int failed = done(PyObject_CallMethodObjArgs(self, native.name._without_permit, worker, task,
                                                 number, NULL));
    Py_DECREF(number);
    return failed;
}

enum next { RAISED, GOES_ON, QUEUE_IS_EMPTY, PERMIT_IS_GONE };

/* Takes a task and runs it. */
static enum next run_next(PyObject *self, PyObject *worker, PyObject *ready, PyObject *parked,
                          long mask) {
    PyObject *task = call1(native.popleft, ready);
    if (task == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_IndexError))
            return RAISED;
        PyErr_Clear(); /* another thread was quicker */
        return QUEUE_IS_EMPTY;
    }
    long verdict = DONE;
    int failed = TAKES(task, Task), permit = 0;
    if (failed == 0) {
        set(SLOT(task, Task, marked), Py_False);
        set(SLOT(worker, Worker, task), task);
        failed = run_one(self, worker, task, mask, &verdict);
    }
    if (failed == 0)
        failed = permit = TRUTH(worker, Worker, permit);
    if (permit > 0)
        failed = verdict == PARK    ? append(parked, task)
                 : verdict == AGAIN ? append(ready, task)
                                    : 0;
    else if (failed == 0)
        failed = without_permit(self, worker, task, verdict);
    Py_DECREF(task);
    return failed < 0 ? RAISED : permit > 0 ? GOES_ON : PERMIT_IS_GONE;
}

/* When the queue is empty, or it is time for a look. */
static PyObject *over(PyObject *self, PyObject *worker) {
    long alone;
    PyObject *batch = HOLD(self, Scheduler, _batch);
    if (batch == NULL)
        return NULL;
    set(SLOT(worker, Worker, task), Py_None);
    put(SLOT(self, Scheduler, _unlooked), batch);
    if (whole(GET(self, Scheduler, _alone), &alone) < 0)
        return NULL;
    if (alone >= ALONE)
        return PyObject_CallMethodOneArg(self, native.name._stay_alone, worker);
    Py_RETURN_NONE;
}

static PyObject *run_some(PyObject *self, PyObject *worker, PyObject *ready, PyObject *parked) {
    long mask, batch;
    if (whole(GET(self, Scheduler, _sample_mask), &mask) < 0 ||
        whole(GET(self, Scheduler, _batch), &batch) < 0)
        return NULL;
    Py_ssize_t waiting = PyObject_Size(ready);
    int watched = waiting < 0 ? -1 : 1;
    if (waiting > 0) {
        int permit = TRUTH(worker, Worker, permit);
        watched = permit < 0 ? -1 : permit == 0 ? 1 : TRUTH(self, Scheduler, _watching);
    }
    if (watched == 0)
        watched = done(PyObject_CallMethodNoArgs(self, native.name._be_watched));
    if (watched < 0)
        return NULL;
    for (Py_ssize_t left = waiting < batch ? waiting : batch; left > 0; left--) {
        enum next next = run_next(self, worker, ready, parked, mask);
        if (next == RAISED)
            return NULL;
        if (next == PERMIT_IS_GONE)
            Py_RETURN_NONE;
        if (next == QUEUE_IS_EMPTY)
            break;
    }
    return over(self, worker);
}

PyObject *native_run_batch(PyObject *self, PyObject *worker) {
    if (!is_exactly(worker, native.its.Worker))
        return call2(native.its.run_batch, self, worker);
    PyObject *ready = HOLD(self, Scheduler, _ready);
    PyObject *parked = ready == NULL ? NULL : HOLD(worker, Worker, parked);
    PyObject *result = parked == NULL ? NULL : run_some(self, worker, ready, parked);
    Py_XDECREF(parked);
    Py_XDECREF(ready);
    return result;
}
