/* The accelerator of `Runner.run_batch`. */

#include "native.h"

#include <sys/resource.h>

static long voluntary_switches(void) {
    struct rusage used;
    return getrusage(RUSAGE_THREAD, &used) == 0 ? used.ru_nvcsw : 0;
}

/* As `BlockingEstimate._run_timed`, of a task that is not taken for blocking, nor its class. */
static PyObject *run_timed(PyObject *worker, PyObject *task, long turn) {
    /* Not always the same place in a row of callbacks that repeats itself. */
    if (put_number(SLOT(worker, Worker, turn), turn + (turn >> SAMPLE_SHIFT & 1)) < 0)
        return NULL;
    set(SLOT(task, Task, no_sample), Py_False);
    set(SLOT(worker, Worker, waited), Py_False);
    long switches = voluntary_switches();
    double began = seconds_now();
    PyObject *verdict = PyObject_CallMethodNoArgs(task, native.name.run);
    if (verdict == NULL || seconds_now() - began <= native.hand_off_cost)
        return verdict;
    if (IS(worker, Worker, waited, Py_False) && IS(task, Task, no_sample, Py_False) &&
        voluntary_switches() != switches) {
        /* A suspect: its next run is measured, and others make way for it. */
        set(SLOT(task, Task, classified), native.its.SUSPECT);
    }
    return verdict;
}

/* What a batch works with, held over it. */
typedef struct {
    PyObject *runner, *queue, *estimate, *ready, *worker, *parked;
    long mask;
} Batch;

/* -1: the run raised. */
static int run_one(const Batch *batch, PyObject *task, long *verdict) {
    long turn;
    if (whole(GET(batch->worker, Worker, turn), &turn) < 0 ||
        put_number(SLOT(batch->worker, Worker, turn), ++turn) < 0)
        return -1;
    PyObject *said;
    int blocks = BLOCKS(task);
    if (blocks < 0)
        return -1;
    if (!blocks && turn & batch->mask)
        said = PyObject_CallMethodNoArgs(task, native.name.run);
    else if (!blocks && batch->mask != 0 &&
             is_exactly(batch->estimate, native.its.BlockingEstimate))
        said = run_timed(batch->worker, task, turn);
    else
        said = PyObject_CallMethodObjArgs(batch->estimate, native.name.run, batch->worker, task,
                                          NULL);
    int failed = whole(said, verdict);
    Py_XDECREF(said);
    return failed;
}

static int after_run(const Batch *batch, PyObject *task, long verdict) {
    PyObject *number = PyLong_FromLong(verdict);
    if (number == NULL)
        return -1;
    int failed = done(PyObject_CallMethodObjArgs(batch->runner, native.name.after_run,
                                                 batch->worker, task, number, NULL));
    Py_DECREF(number);
    return failed;
}

enum next { RAISED, GOES_ON, QUEUE_IS_EMPTY, PERMIT_IS_GONE };

/* Takes a task and runs it. */
static enum next run_next(const Batch *batch) {
    PyObject *worker = batch->worker, *task = call1(native.popleft, batch->ready);
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
        failed = run_one(batch, task, &verdict);
    }
    if (failed == 0)
        failed = permit = TRUTH(worker, Worker, permit);
    if (permit > 0)
        failed = verdict == PARK    ? append(batch->parked, task)
                 : verdict == AGAIN ? append(batch->ready, task)
                                    : 0;
    else if (failed == 0)
        failed = after_run(batch, task, verdict);
    Py_DECREF(task);
    return failed < 0 ? RAISED : permit > 0 ? GOES_ON : PERMIT_IS_GONE;
}

/* As `RunQueue.begin_batch`; -1: raised. */
static Py_ssize_t begin(const Batch *batch) {
    long most;
    PyObject *timer = GET(batch->queue, RunQueue, _watchdog_timer);
    if (timer == NULL || TAKES(timer, WatchdogTimer) < 0 ||
        whole(GET(batch->queue, RunQueue, _batch), &most) < 0)
        return -1;
    Py_ssize_t waiting = PyObject_Size(batch->ready);
    if (waiting <= 0)
        return waiting;
    int permit = TRUTH(batch->worker, Worker, permit);
    int watched = permit < 0 ? -1 : permit == 0 ? 1 : TRUTH(timer, WatchdogTimer, watching);
    if (watched == 0) {
        Py_INCREF(timer);
        watched = done(PyObject_CallMethodNoArgs(timer, native.name.begin_now));
        Py_DECREF(timer);
    }
    return watched < 0 ? -1 : waiting < most ? waiting : most;
}

/* When the queue is empty, or it is time for a look: as `RunQueue.end_batch`. */
static PyObject *end(const Batch *batch) {
    long alone;
    PyObject *most = HOLD(batch->queue, RunQueue, _batch);
    if (most == NULL)
        return NULL;
    set(SLOT(batch->worker, Worker, task), Py_None);
    put(SLOT(batch->queue, RunQueue, _unlooked), most);
    if (whole(GET(batch->queue, RunQueue, _alone), &alone) < 0)
        return NULL;
    if (alone >= ALONE)
        return PyObject_CallMethodOneArg(batch->runner, native.name.stay_alone, batch->worker);
    Py_RETURN_NONE;
}

static PyObject *run_some(const Batch *batch) {
    Py_ssize_t left = begin(batch);
    if (left < 0)
        return NULL;
    for (; left > 0; left--) {
        enum next next = run_next(batch);
        if (next == RAISED)
            return NULL;
        if (next == PERMIT_IS_GONE)
            Py_RETURN_NONE;
        if (next == QUEUE_IS_EMPTY)
            break;
    }
    return end(batch);
}

PyObject *native_run_batch(PyObject *self, PyObject *worker) {
    if (!is_exactly(worker, native.its.Worker))
        return call2(native.its.run_batch, self, worker);
    Batch batch = {.runner = self, .worker = worker};
    PyObject *result = NULL;
    if ((batch.queue = HOLD(self, Runner, _queue)) != NULL &&
        (batch.estimate = HOLD(self, Runner, _estimate)) != NULL &&
        TAKES(batch.queue, RunQueue) == 0 && TAKES(batch.estimate, BlockingEstimate) == 0 &&
        (batch.ready = HOLD(batch.queue, RunQueue, _ready)) != NULL &&
        (batch.parked = HOLD(worker, Worker, parked)) != NULL &&
        whole(GET(batch.estimate, BlockingEstimate, sample_mask), &batch.mask) == 0)
        result = run_some(&batch);
    Py_XDECREF(batch.parked);
    Py_XDECREF(batch.ready);
    Py_XDECREF(batch.estimate);
    Py_XDECREF(batch.queue);
    return result;
}
