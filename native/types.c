/* How the base types are made, but for those of TLS. What they do is in loop.c and batch.c. */

#include "scheduler.h"

int was_made(PyObject *object, PyObject *filled) {
    if (filled != NULL)
        return 0;
    PyErr_Format(PyExc_AttributeError, "'%.100s' object: its __init__ was not called",
                 Py_TYPE(object)->tp_name);
    return -1;
}

int takes_so_many(PyObject *self, PyObject *args, PyObject *names, Py_ssize_t count) {
    if (PyTuple_GET_SIZE(args) == count && (names == NULL || PyDict_GET_SIZE(names) == 0))
        return 0;
    PyErr_Format(PyExc_TypeError, "%.100s takes %zd arguments", Py_TYPE(self)->tp_name, count);
    return -1;
}

PyObject *call_the_long_way(PyTypeObject *type, PyObject *const *given, size_t count,
                            PyObject *names) {
    type->tp_vectorcall = NULL; /* until its `__init__` is called with what it takes */
    return PyObject_Vectorcall((PyObject *)type, given, count, names);
}

/* ---- a task ------------------------------------------------------------------ */

/* classify(unknown, quick, suspect): a new task is the first. */
PyObject *classify(PyObject *Py_UNUSED(module), PyObject *args) {
    PyObject *unknown, *quick, *suspect;
    if (!PyArg_ParseTuple(args, "OOO", &unknown, &quick, &suspect))
        return NULL;
    set(&native->unknown, unknown);
    set(&native->quick, quick);
    set(&native->suspect, suspect);
    Py_RETURN_NONE;
}

static int Task_init(Task *self, PyObject *args, PyObject *names) {
    long fd;
    if (takes_so_many((PyObject *)self, args, names, 1) < 0 ||
        whole(PyTuple_GET_ITEM(args, 0), &fd) < 0)
        return -1;
    set(&self->fd, PyTuple_GET_ITEM(args, 0));
    set(&self->write_edges, Py_True);
    self->deadline = self->timer_at = Py_HUGE_VAL;
    set(&self->alert, Py_False);
    set(&self->attached, Py_False);
    set(&self->hung_up, Py_False);
    set(&self->no_sample, Py_False);
    set(&self->reads, Py_True);
    set(&self->timer, Py_None);
    put(&self->classified, Py_XNewRef(native->unknown));
    return 0;
}

static PyObject *not_there(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(args)) {
    PyErr_SetNone(PyExc_NotImplementedError);
    return NULL;
}

static PyObject *no(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(args)) { Py_RETURN_FALSE; }

static PyObject *nothing(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(args)) { Py_RETURN_NONE; }

static PyObject *is_deaf(PyObject *Py_UNUSED(self), void *Py_UNUSED(closure)) { Py_RETURN_FALSE; }

static PyGetSetDef Task_getset[] = {
    {"deaf", is_deaf, NULL, "What comes leads to no run.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyMethodDef Task_methods[] = {
    {"run", not_there, METH_VARARGS, "run($self, /)\n--\n\n"},
    {"may_stay", no, METH_NOARGS, "may_stay($self, /)\n--\n\n"},
    {"stay", not_there, METH_VARARGS, "stay($self, timeout, wanted, /)\n--\n\n"},
    {"broke", not_there, METH_VARARGS, "broke($self, /)\n--\n\n"},
    {"unwatched", nothing, METH_O, "unwatched($self, error, /)\n--\n\n"},
    {"stop_begins", nothing, METH_NOARGS, "stop_begins($self, /)\n--\n\n"},
    {NULL, NULL, 0, NULL},
};

/* ---- the others ---------------------------------------------------------------- */

/* Of a field that is given once: who runs with it need not hold it. */
static bool is_made(PyObject *filled) {
    if (filled != NULL)
        PyErr_Format(PyExc_TypeError, "__init__ is called once");
    return filled != NULL;
}

static int Worker_init(Worker *self, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(names)) {
    if (is_made(self->parked) || (self->parked = PyObject_CallNoArgs(native->deque)) == NULL)
        return -1;
    set(&self->task, Py_None);
    self->permit = 1;
    return 0;
}

static int Deadlines_init(Deadlines *self, PyObject *args, PyObject *Py_UNUSED(names)) {
    PyObject *clock;
    if (is_made(self->calls) || !PyArg_ParseTuple(args, "O", &clock) ||
        (self->calls = PyObject_CallNoArgs(native->deque)) == NULL)
        return -1;
    self->_clock = Py_NewRef(clock);
    self->_next = Py_HUGE_VAL;
    return 0;
}

static int RunQueue_init(RunQueue *self, PyObject *args, PyObject *Py_UNUSED(names)) {
    PyObject *lock, *tasks, *deadlines, *timer;
    if (is_made(self->lock) ||
        !PyArg_ParseTuple(args, "OO!O!O!", &lock, &PyList_Type, &tasks, native->type.Deadlines,
                          &deadlines, native->type.WatchdogTimer, &timer) ||
        was_made(deadlines, ((Deadlines *)deadlines)->calls) < 0 ||
        (self->_ready = PyObject_CallNoArgs(native->deque)) == NULL)
        return -1;
    self->lock = Py_NewRef(lock);
    self->_tasks = Py_NewRef(tasks);
    self->_deadlines = Py_NewRef(deadlines);
    self->_watchdog_timer = Py_NewRef(timer);
    set(&self->_epoll, Py_None);
    self->_last_found = -1;
    return 0;
}

static int Runner_init(Runner *self, PyObject *args, PyObject *Py_UNUSED(names)) {
    PyObject *queue, *estimate;
    if (is_made(self->_queue) ||
        !PyArg_ParseTuple(args, "O!O!", native->type.RunQueue, &queue, native->type.BlockingEstimate,
                          &estimate) ||
        was_made(queue, ((RunQueue *)queue)->lock) < 0)
        return -1;
    self->_queue = Py_NewRef(queue);
    self->_estimate = Py_NewRef(estimate);
    return 0;
}

static PyMethodDef RunQueue_methods[] = {
    {"look", queue_look, METH_O, "look($self, worker, /)\n--\n\nAs `look_the_long_way`."},
    {NULL, NULL, 0, NULL},
};
static PyMethodDef Runner_methods[] = {
    {"run_batch", runner_run_batch, METH_O, "run_batch($self, worker, /)\n--\n\nAs `run_each`."},
    {NULL, NULL, 0, NULL},
};

/* ---- the types ------------------------------------------------------------------- */

#define Self Task
TYPE(Task, "Task", BEGINS(Task) DOES(Task){Py_tp_getset, Task_getset}, )
#undef Self
#define Self Worker
TYPE(Worker, "Worker", BEGINS(Worker))
#undef Self
#define Self Deadlines
TYPE(Deadlines, "Deadlines", BEGINS(Deadlines))
#undef Self
#define Self WatchdogTimer
TYPE(WatchdogTimer, "WatchdogTimer", )
#undef Self
#define Self RunQueue
TYPE(RunQueue, "RunQueue", BEGINS(RunQueue) DOES(RunQueue))
#undef Self
#define Self BlockingEstimate
TYPE(BlockingEstimate, "BlockingEstimate", )
#undef Self
#define Self Runner
TYPE(Runner, "Runner", BEGINS(Runner) DOES(Runner))
#undef Self
#define Self Client
PLAIN_TYPE(Client)
#undef Self
#define Self Closing
PLAIN_TYPE(Closing)
#undef Self
#define Self Machine
PLAIN_TYPE(Machine)
#undef Self
#define Self Callbacks
PLAIN_TYPE(Callbacks)
#undef Self
#define Self Duplex
PLAIN_TYPE(Duplex)
#undef Self
#define Self Reader
PLAIN_TYPE(Reader)
#undef Self
#define Self Writer
PLAIN_TYPE(Writer)
#undef Self
