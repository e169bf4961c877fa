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

/* what tests read and set */
long host_memory_alive, host_pinned_alive, host_streams_alive, host_events_alive, host_graphs_alive, host_contexts_alive;
long host_launches, host_copies, host_fail_launch, host_modules_alive, host_kernels;
size_t host_limit = (size_t)1 << 32, host_used;
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
R cuDeviceGet(int *d, int i) { *d = i; return i == 0 ? OK : 101; }
R cuDeviceGetCount(int *n) { *n = 1; return OK; }
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
R cuModuleGetFunction(void **f, const char *m, const char *name) {
    NEED;
    static void *library;
    char text[128];
    if (!library) library = dlopen(getenv("NTRE_HOST_KERNELS"), RTLD_NOW);
    snprintf(text, sizeof text, ".entry %s(", name);
    if (!library || !strstr(m, text)) return NOT_FOUND;
    snprintf(text, sizeof text, "emulate_%s", name);
    *f = dlsym(library, text);
    return *f ? OK : NOT_FOUND;
}
R cuLaunchKernel(char (*f)(unsigned *, unsigned *, void **, char), unsigned gx, unsigned gy, unsigned gz, unsigned bx,
                 unsigned by, unsigned bz, unsigned shared, Stream *s, void **arguments, void **extra) {
    NEED;
    unsigned grid[3] = {gx, gy, gz}, block[3] = {bx, by, bz};
    if (host_fail_launch || s->capturing) return FAILED;
    host_kernels++;
    return f(grid, block, arguments, 0) ? OK : FAILED;
}
R cuGetErrorName(R e, const char **s) { *s = "CUDA_ERROR"; return OK; }
R cuGetErrorString(R e, const char **s) { *s = "the host driver was asked to fail"; return OK; }
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
