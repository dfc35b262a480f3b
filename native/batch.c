/* `Runner.run_batch`: runs what is ready. What has lost its permit, and what is to be measured, is
   Python's. */

#include "scheduler.h"

#include <sys/resource.h>

static long voluntary_switches(void) {
    struct rusage used;
    return getrusage(RUSAGE_THREAD, &used) == 0 ? used.ru_nvcsw : 0;
}

/* As `BlockingEstimate._run_timed`, of a task that is not taken for blocking, nor its class. */
static PyObject *run_timed(Worker *worker, Task *task) {
    /* Not always the same place in a row of callbacks that repeats itself. */
    worker->turn += worker->turn >> SAMPLE_SHIFT & 1;
    set(&task->no_sample, Py_False);
    worker->waited = 0;
    long switches = voluntary_switches();
    double began = seconds_now();
    PyObject *verdict = PyObject_CallMethodNoArgs((PyObject *)task, native->name.run);
    if (verdict != NULL && seconds_now() - began > HAND_OFF_NS * 1e-9 && !worker->waited &&
        task->no_sample == Py_False && voluntary_switches() != switches)
        set(&task->classified, native->suspect);
    return verdict;
}

/* -1: the run raised. */
static int run_one(Runner *self, Worker *worker, PyObject *task, long *verdict) {
    BlockingEstimate *estimate = (BlockingEstimate *)self->_estimate;
    PyObject *said;
    worker->turn = (long)((unsigned long)worker->turn + 1);
    if (is_quick((Task *)task) && worker->turn & estimate->sample_mask)
        said = PyObject_CallMethodNoArgs(task, native->name.run);
    else if (is_quick((Task *)task) && estimate->sample_mask != 0 && estimate->timed_by_kernel)
        said = run_timed(worker, (Task *)task);
    else
        said = PyObject_CallMethodObjArgs(self->_estimate, native->name.run, worker, task, NULL);
    int failed = whole(said, verdict);
    Py_XDECREF(said);
    return failed;
}

enum next { RAISED, GOES_ON, QUEUE_IS_EMPTY, PERMIT_IS_GONE };

/* Takes a task and runs it. */
static enum next run_next(Runner *self, Worker *worker, PyObject *ready, long *verdict) {
    PyObject *task = take_first(ready);
    if (task == NULL) {
        PyErr_Clear(); /* another thread was quicker */
        return QUEUE_IS_EMPTY;
    }
    int failed = takes(task, native->type.Task), permit = 0;
    if (failed == 0) {
        ((Task *)task)->ownership = OWNED;
        set(&worker->task, task);
        failed = run_one(self, worker, task, verdict);
        permit = worker->permit;
    }
    if (failed == 0 && permit)
        failed = *verdict == PARK    ? append(worker->parked, task)
                 : *verdict == AGAIN ? append(ready, task)
                                     : 0;
    else if (failed == 0)
        set(&worker->task, task); /* it may have run another meanwhile */
    Py_DECREF(task);
    return failed < 0 ? RAISED : permit ? GOES_ON : PERMIT_IS_GONE;
}

/* As `RunQueue.begin_batch`; -1: raised. */
static Py_ssize_t begin(RunQueue *queue, Worker *worker) {
    WatchdogTimer *timer = (WatchdogTimer *)queue->_watchdog_timer;
    Py_ssize_t waiting = PyObject_Size(queue->_ready);
    if (waiting > 0 && worker->permit && timer->state == SLEEPS &&
        done(PyObject_CallMethodNoArgs((PyObject *)timer, native->name.begin_now)) < 0)
        return -1;
    return waiting < queue->_batch ? waiting : queue->_batch;
}

PyObject *runner_run_batch(PyObject *object, PyObject *given) {
    Runner *self = (Runner *)object;
    Worker *worker = (Worker *)given;
    if (was_made(object, self->_queue) < 0 || takes(given, native->type.Worker) < 0 ||
        was_made(given, worker->parked) < 0)
        return NULL;
    RunQueue *queue = (RunQueue *)self->_queue;
    long verdict = DONE;
    for (Py_ssize_t left = begin(queue, worker); left != 0; left--) {
        enum next next = left < 0 ? RAISED : run_next(self, worker, queue->_ready, &verdict);
        if (next == RAISED)
            return NULL;
        if (next == PERMIT_IS_GONE)
            return PyLong_FromLong(verdict);
        if (next == QUEUE_IS_EMPTY)
            break;
    }
    /* As `RunQueue.end_batch`. */
    set(&worker->task, Py_None);
    queue->_unlooked = queue->_batch;
    if (queue->_alone >= ALONE)
        return PyLong_FromLong(STAYS);
    Py_RETURN_NONE;
}
