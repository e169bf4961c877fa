/* The part of the CUDA driver that the runtime calls, on host memory: device memory is malloc, streams run at once.
   It counts what is alive, so that tests see leaks, and fails where a test asks it to. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef int R;
typedef unsigned long long P;
enum { OK = 0, INVALID = 1, NO_MEMORY = 2, NO_DEVICE = 100, CONTEXT = 201, NOT_FOUND = 500, CAPTURE = 900, FAILED = 719 };

/* What tests read and set.  Atomic: threads of a test call the driver at once (the bindings let the GIL go), and one count
   that is lost would stay in every later test. */
_Atomic long host_memory_alive, host_pinned_alive, host_streams_alive, host_events_alive, host_graphs_alive, host_contexts_alive;
_Atomic long host_launches, host_copies, host_fail_launch, host_modules_alive, host_kernels;
_Atomic size_t host_limit = (size_t)1 << 32, host_used;
static __thread int depth; /* of the stack of contexts */

typedef struct Node { int kind; void *to, *from; size_t size; void (*f)(void *); void *data; struct Node *next; } Node;
typedef struct { Node *first, *last; } Graph;
typedef struct { Graph *capturing; } Stream;
typedef struct { struct timespec at; } Event;

#define NEED if (!depth) return CONTEXT
static void run(Node *n) { if (n->kind == 0) { memmove(n->to, n->from, n->size); host_copies++; } else n->f(n->data); }
static R queue(Stream *s, Node n) {
    NEED;
    if (!s || !s->capturing) { run(&n); return OK; }
    Node *kept = malloc(sizeof n); *kept = n; kept->next = 0;
    if (s->capturing->last) s->capturing->last->next = kept; else s->capturing->first = kept;
    s->capturing->last = kept;
    return OK;
}
static void drop(Graph *g) { for (Node *n = g->first; n;) { Node *next = n->next; free(n); n = next; } free(g); }

R cuInit(unsigned f) { return getenv("HOST_NO_DEVICE") ? NO_DEVICE : OK; }
R cuDriverGetVersion(int *v) { *v = 13000; return OK; }
R cuDeviceGet(int *d, int i) { *d = i; return i < 2 ? OK : 101; }
R cuDeviceGetCount(int *n) { *n = 2; return OK; }
R cuDeviceGetName(char *name, int n, int d) { snprintf(name, n, "host memory"); return OK; }
R cuDeviceGetAttribute(int *v, int a, int d) { *v = a == 75 ? 8 : a == 76 ? 6 : a == 16 ? 4 : 0; return OK; }
R cuDevicePrimaryCtxRetain(void **c, int d) { static int context; *c = &context; host_contexts_alive++; return OK; }
R cuDevicePrimaryCtxRelease(int d) { host_contexts_alive--; return OK; }
R cuCtxPushCurrent(void *c) { depth++; return OK; }
R cuCtxPopCurrent(void **c) { NEED; depth--; *c = 0; return OK; }
R cuMemGetInfo(size_t *f, size_t *t) { NEED; *f = host_limit - host_used; *t = host_limit; return OK; }
R cuMemAlloc(P *p, size_t n) {
    NEED;
    if (host_used + n > host_limit) return NO_MEMORY;
    size_t *m = aligned_alloc(256, (n + 511) / 256 * 256);
    m[0] = n; host_used += n; host_memory_alive++; *p = (P)(m + 32);
    return OK;
}
R cuMemFree(P p) { NEED; size_t *m = (size_t *)p - 32; host_used -= m[0]; host_memory_alive--; free(m); return OK; }
R cuMemHostAlloc(void **p, size_t n, unsigned f) { NEED; *p = malloc(n); host_pinned_alive++; return OK; }
R cuMemFreeHost(void *p) { NEED; free(p); host_pinned_alive--; return OK; }
R cuStreamCreate(Stream **s, unsigned f) { NEED; *s = calloc(1, sizeof(Stream)); host_streams_alive++; return OK; }
R cuStreamDestroy(Stream *s) { NEED; free(s); host_streams_alive--; return OK; }
R cuStreamSynchronize(Stream *s) { NEED; return OK; }
R cuStreamWaitEvent(Stream *s, Event *e, unsigned f) { NEED; return OK; }
R cuEventCreate(Event **e, unsigned f) { NEED; *e = calloc(1, sizeof(Event)); host_events_alive++; return OK; }
R cuEventDestroy(Event *e) { NEED; free(e); host_events_alive--; return OK; }
R cuEventRecord(Event *e, Stream *s) { NEED; clock_gettime(CLOCK_MONOTONIC, &e->at); return OK; }
R cuEventElapsedTime(float *ms, Event *a, Event *b) {
    *ms = (b->at.tv_sec - a->at.tv_sec) * 1e3f + (b->at.tv_nsec - a->at.tv_nsec) * 1e-6f;
    return OK;
}
R cuMemcpyHtoDAsync(P to, void *from, size_t n, Stream *s) { return queue(s, (Node){0, (void *)to, from, n}); }
R cuMemcpyDtoHAsync(void *to, P from, size_t n, Stream *s) { return queue(s, (Node){0, to, (void *)from, n}); }
R cuMemcpyDtoDAsync(P to, P from, size_t n, Stream *s) { return queue(s, (Node){0, (void *)to, (void *)from, n}); }
R cuLaunchHostFunc(Stream *s, void (*f)(void *), void *data) { return queue(s, (Node){1, 0, 0, 0, f, data}); }
R cuStreamBeginCapture(Stream *s, int mode) { NEED; s->capturing = calloc(1, sizeof(Graph)); host_graphs_alive++; return OK; }
R cuStreamEndCapture(Stream *s, Graph **g) { NEED; *g = s->capturing; s->capturing = 0; return *g ? OK : CAPTURE; }
R cuGraphInstantiateWithFlags(Graph **x, Graph *g, P f) {
    NEED;
    Stream copy = {*x = calloc(1, sizeof(Graph))};
    for (Node *n = g->first; n; n = n->next) queue(&copy, *n);
    host_graphs_alive++;
    return OK;
}
R cuGraphDestroy(Graph *g) { NEED; drop(g); host_graphs_alive--; return OK; }
R cuGraphExecDestroy(Graph *g) { NEED; drop(g); host_graphs_alive--; return OK; }
R cuGraphLaunch(Graph *g, Stream *s) {
    NEED;
    if (host_fail_launch) return FAILED;
    host_launches++;
    for (Node *n = g->first; n; n = n->next) run(n);
    return OK;
}
/* kernels: a module is its PTX, a function the same source built for the CPU (NTRE_HOST_KERNELS), run at once */
R cuModuleLoadData(char **m, const char *ptx) { NEED; *m = strdup(ptx); host_modules_alive++; return OK; }
R cuModuleUnload(char *m) { NEED; free(m); host_modules_alive--; return OK; }
typedef struct { char (*run)(unsigned *, unsigned *, void **, char); int count, sizes[32]; } Function;
R cuModuleGetFunction(Function **f, const char *m, const char *name) {
    NEED;
    static void *library;
    char text[128];
    if (!library) library = dlopen(getenv("NTRE_HOST_KERNELS"), RTLD_NOW);
    snprintf(text, sizeof text, ".entry %s(", name);
    const char *entry = strstr(m, text), *end = entry ? strchr(entry, ')') : 0;
    if (!library || !end) return NOT_FOUND;
    Function *found = calloc(1, sizeof(Function)); /* a driver frees it with its module; tests do not count it */
    for (const char *p = entry; (p = strstr(p, ".param .")) && p < end; p++) {
        int bits = 0;
        sscanf(p + 8, "%*[a-z]%d", &bits);
        found->sizes[found->count++] = bits / 8;
    }
    snprintf(text, sizeof text, "emulate_%s", name);
    found->run = dlsym(library, text);
    *f = found;
    return found->run ? OK : NOT_FOUND;
}
/* arguments by their addresses, or packed with the alignment of each (extra[1], as pycuda does) */
R cuLaunchKernel(Function *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                 unsigned shared, Stream *s, void **arguments, void **extra) {
    NEED;
    unsigned grid[3] = {gx, gy, gz}, block[3] = {bx, by, bz};
    if (host_fail_launch || s->capturing) return FAILED;
    void *unpacked[32];
    if (!arguments) {
        size_t at = 0;
        for (int i = 0; i < f->count; i++) {
            at = (at + f->sizes[i] - 1) / f->sizes[i] * f->sizes[i];
            unpacked[i] = (char *)extra[1] + at;
            at += f->sizes[i];
        }
        if (*(size_t *)extra[3] < at) return INVALID;
        arguments = unpacked;
    }
    host_kernels++;
    return f->run(grid, block, arguments, 0) ? OK : FAILED;
}
/* what pycuda calls beside that, and the names by which it links */
R cuDeviceComputeCapability(int *major, int *minor, int d) { *major = 8; *minor = 6; return OK; }
R cuCtxGetDevice(int *d) { NEED; *d = 0; return OK; }
R cuCtxDetach(void *c) { return OK; }
R cuCtxSynchronize(void) { NEED; return OK; }
R cuEventSynchronize(Event *e) { NEED; return OK; }
R cuMemHostGetFlags(unsigned *f, void *p) { *f = 0; return OK; }
R cuModuleLoadDataEx(char **m, const char *ptx, unsigned n, void *options, void *values) { return cuModuleLoadData(m, ptx); }
R cuFuncSetBlockShape(void *f, int x, int y, int z) { NEED; return OK; }
#define ALSO(name, suffix) extern __typeof(name) name##suffix __attribute__((alias(#name)));
ALSO(cuCtxPopCurrent, _v2) ALSO(cuCtxPushCurrent, _v2) ALSO(cuDevicePrimaryCtxRelease, _v2) ALSO(cuEventDestroy, _v2)
ALSO(cuEventElapsedTime, _v2) ALSO(cuMemAlloc, _v2) ALSO(cuMemFree, _v2) ALSO(cuMemGetInfo, _v2)
ALSO(cuMemcpyDtoDAsync, _v2) ALSO(cuMemcpyDtoHAsync, _v2) ALSO(cuMemcpyHtoDAsync, _v2) ALSO(cuStreamDestroy, _v2)
R cuGetErrorName(R e, const char **s) { *s = "CUDA_ERROR"; return OK; }
R cuGetErrorString(R e, const char **s) { *s = e == NO_MEMORY ? "out of memory" : "the host driver was asked to fail"; return OK; }
R cuGetProcAddress(const char *name, void **f, int version, P flags, int *status) {
    *f = dlsym(RTLD_DEFAULT, name);
    /* only what is in this file: names of the real driver that it lacks are not there */
    if (!*f || strncmp(name, "cu", 2)) { *f = 0; if (status) *status = 1; return NOT_FOUND; }
    if (status) *status = 0;
    return OK;
}
R cuGetProcAddress_v2(const char *name, void **f, int version, P flags, int *status) {
    return cuGetProcAddress(name, f, version, flags, status);
}
