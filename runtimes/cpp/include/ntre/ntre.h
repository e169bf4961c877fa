/* Few-shot segmentation from any language: bundles of `ntre export`, annotated images in, label maps out.
 *
 *   Errors    Every function that can fail returns an `ntre_status`; anything but NTRE_OK leaves its outputs as they
 *             were, but for out handles, which become NULL.  `ntre_last_error` has one line of text.  No exception
 *             leaves the library.
 *   Handles   `ntre_segmenter` and `ntre_memory` are opaque.  Who gets one from an out parameter owns it and gives it
 *             back with its `_free` function, once; NULL may be freed.
 *   Pointers  The library reads arguments while the call runs and keeps none of them.  What a getter returns belongs to
 *             its handle and lives as long as that.
 *   Threads   A segmenter is used by one thread at a time: `ntre_segmenter_clone` makes another that shares its
 * weights. Memories never change: any number of threads may use one.  Everything else may be called by any thread.
 *   Texts     are UTF-8 and end in a zero byte.
 *   Versions  Within one NTRE_ABI_VERSION, functions and constants are added and none is changed or taken away; the
 *             structs keep their layout, but for `ntre_options`, which grows at its end.
 */
#ifndef NTRE_H
#define NTRE_H

#include <stddef.h>
#include <stdint.h>

#include "ntre/version.h"

/* What this header describes; compare with `ntre_abi_version` where the library is loaded at run time. */
#define NTRE_ABI_VERSION 1

#if defined(_WIN32)
#if defined(NTRE_BUILDING)
#define NTRE_API __declspec(dllexport)
#else
#define NTRE_API __declspec(dllimport)
#endif
#else
#define NTRE_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Status and versions ---- */

/* How a call ended.  The numbers are the exit codes of `ntre`; treat one that you do not know as NTRE_INTERNAL. */
typedef int32_t ntre_status;

#define NTRE_OK 0       /* done */
#define NTRE_GATE 1     /* a check that was asked for did not pass */
#define NTRE_INPUT 2    /* a file, an option or a value that cannot be used */
#define NTRE_ENGINE 3   /* an engine or a precision is not available, or failed while it ran */
#define NTRE_INTERNAL 4 /* no memory is left, or a defect of this library */

/* The version of the library, such as "0.1.0". */
NTRE_API const char* ntre_version(void);

/* The NTRE_ABI_VERSION that the library was built with. */
NTRE_API uint32_t ntre_abi_version(void);

/* What the last call of this thread that failed had to say: one line, which names what was given, what was expected and
 * the next step.  Empty before the first failure.  Valid until the next failure in the same thread. */
NTRE_API const char* ntre_last_error(void);

/* The name of the engine number `index`, best first, such as "openvino"; NULL from their count on.  A library without
 * engines has none, and still reads and writes memories. */
NTRE_API const char* ntre_engine_name(size_t index);

/* ---- Pixels ---- */

/* An RGB image.  The pixels stay the caller's. */
typedef struct ntre_image {
  const uint8_t* data; /* the first row; a pixel is three bytes: red, green, blue */
  int32_t width;       /* pixels, 1 to 32,767 */
  int32_t height;      /* pixels, 1 to 32,767 */
  ptrdiff_t stride;    /* bytes from a row to the next; 0 means 3 * width, and below 0 is for bottom-up rows */
} ntre_image;

/* A mask of one byte a pixel, of its image's size.  The pixels stay the caller's. */
typedef struct ntre_mask {
  const uint8_t* data; /* the first row: 1 the target, 0 the rest, 255 ignored; or 0 and 255 alone, 255 the target */
  int32_t width;       /* pixels */
  int32_t height;      /* pixels */
  ptrdiff_t stride;    /* bytes from a row to the next; 0 means width */
} ntre_mask;

/* ---- Segmenters ---- */

/* A bundle with an engine. */
typedef struct ntre_segmenter ntre_segmenter;

/* Hears what the user should know and what stops nothing: one line of text, valid during the call, and the `user` that
 * was given with the function.  It must not throw. */
typedef void (*ntre_warn)(const char* text, void* user);

/* How a bundle is loaded.  Begin with NTRE_OPTIONS, which takes every default, and set what should differ. */
typedef struct ntre_options {
  size_t size;                /* sizeof(ntre_options): tells the library which fields the caller knows */
  const char* engine;         /* a name of `ntre_engine_name`; NULL or "auto" takes the best that runs here */
  const char* precision;      /* "fp32", "bf16" or "int8"; NULL takes the engine's best that this machine has */
  int32_t threads;            /* of the CPU; 0 leaves it to the engine */
  int32_t skip_self_test;     /* not 0: do not run the bundle's self-test (one support and one query) first */
  const char* hint;           /* "latency", or "throughput" for several clones at once; NULL means "latency" */
  const char* cache;          /* folder for compiled graphs, for a faster next load; only its user may be able to
                                 write there.  NULL keeps none */
  const char* const* trusted; /* paths of PEM files of public Ed25519 keys: one of them must have signed the bundle */
  size_t trusted_count;       /* how many; 0 demands no signature */
} ntre_options;

#define NTRE_OPTIONS {sizeof(ntre_options), NULL, NULL, 0, 0, NULL, NULL, NULL, 0}

/* Loads the bundle in the folder `bundle`: checks it, opens an engine and runs the self-test.
 * `options` may be NULL for the defaults.
 * NTRE_INPUT: no bundle, a file of it was changed, or no trusted key has signed it.
 * NTRE_ENGINE: the engine or the precision cannot be had here, or fails the self-test. */
NTRE_API ntre_status ntre_load(const char* bundle, const ntre_options* options, ntre_segmenter** out);

/* Checks the bundle in the folder `bundle` without opening an engine: its manifest, the SHA-256 of every file, that no
 * file is unlisted or a link, that its graphs refer to no other files, and that it has a self-test.
 * `trusted` are `trusted_count` paths as in `ntre_options`.
 * NTRE_INPUT: it cannot be used. */
NTRE_API ntre_status ntre_check(const char* bundle, const char* const* trusted, size_t trusted_count);

/* Another segmenter for another thread, which shares the weights of this one; each is freed by itself. */
NTRE_API ntre_status ntre_segmenter_clone(const ntre_segmenter* segmenter, ntre_segmenter** out);

/* Gives a segmenter back.  Memories that it made live on. */
NTRE_API void ntre_segmenter_free(ntre_segmenter* segmenter);

/* The engine that runs, such as "openvino". */
NTRE_API const char* ntre_segmenter_engine(const ntre_segmenter* segmenter);

/* Its precision, such as "fp32". */
NTRE_API const char* ntre_segmenter_precision(const ntre_segmenter* segmenter);

/* Engine and precision, and which better ones were passed over for which reason. */
NTRE_API const char* ntre_segmenter_reason(const ntre_segmenter* segmenter);

/* The id of the bundle's model, which the memories of this segmenter carry. */
NTRE_API const char* ntre_segmenter_model(const ntre_segmenter* segmenter);

/* The side of the square that images are fitted into, in pixels. */
NTRE_API int32_t ntre_segmenter_input_size(const ntre_segmenter* segmenter);

/* Rows and columns of the logits. */
NTRE_API int32_t ntre_segmenter_feature_height(const ntre_segmenter* segmenter);
NTRE_API int32_t ntre_segmenter_feature_width(const ntre_segmenter* segmenter);

/* ---- Memories ---- */

/* What the network keeps of one class from its annotated images; images are not needed any more. */
typedef struct ntre_memory ntre_memory;

/* One annotated image. */
typedef struct ntre_shot {
  ntre_image image; /* the photo */
  ntre_mask mask;   /* of the same size */
} ntre_shot;

/* One class with its annotated images. */
typedef struct ntre_class {
  const char* name;       /* for messages and files; NULL is an error */
  const ntre_shot* shots; /* `count` of them */
  size_t count;           /* 1 at least */
} ntre_class;

/* Flags of `ntre_encode`, added up. */
#define NTRE_ALLOW_UNSEEN 1u   /* take a target that is too small to be seen at the network's resolution */
#define NTRE_NO_SHOT_SCORES 2u /* do not segment each of several shots with the others */
#define NTRE_NO_CALIBRATION 4u /* do not make the margins of several classes comparable */

/* Encodes `count` classes that will be segmented together; `out` gets as many memories, in the same order.  Classes
 * that are encoded in one call are calibrated against each other (a query for each shot); with one class there is
 * nothing to compare. NTRE_INPUT: no shots, a mask of another size than its image, of other values or without a target,
 * or a target that is too small to be seen.  NTRE_ENGINE: the engine failed. */
NTRE_API ntre_status ntre_encode(ntre_segmenter* segmenter, const ntre_class* classes, size_t count, uint32_t flags,
                                 ntre_memory** out);

/* Reads a memory from a file that `ntre_memory_save`, Python or a browser wrote.  `warn` (NULL for none) hears of files
 * of before there were digests.
 * NTRE_INPUT: no such file, its digest is not that of its bytes, or it does not hold a memory. */
NTRE_API ntre_status ntre_memory_load(const char* path, ntre_warn warn, void* user, ntre_memory** out);

/* The same from `size` bytes in memory. */
NTRE_API ntre_status ntre_memory_from_bytes(const uint8_t* bytes, size_t size, ntre_warn warn, void* user,
                                            ntre_memory** out);

/* Writes a memory to a file, whole or not at all; one of that name is replaced.
 * NTRE_INPUT: it cannot be written. */
NTRE_API ntre_status ntre_memory_save(const ntre_memory* memory, const char* path);

/* The bytes of that file.  `*size` is the room in `bytes` and becomes the number that is needed; where the room is too
 * small, or `bytes` is NULL, nothing is written: ask first, then call again.
 * NTRE_INPUT: the room is too small (but not where `bytes` is NULL). */
NTRE_API ntre_status ntre_memory_to_bytes(const ntre_memory* memory, uint8_t* bytes, size_t* size);

/* The same memory without its calibration. */
NTRE_API ntre_status ntre_memory_uncalibrated(const ntre_memory* memory, ntre_memory** out);

/* Gives a memory back. */
NTRE_API void ntre_memory_free(ntre_memory* memory);

/* The name of the class. */
NTRE_API const char* ntre_memory_name(const ntre_memory* memory);

/* The id of the model that made it; another model's segmenter refuses it. */
NTRE_API const char* ntre_memory_model(const ntre_memory* memory);

/* The number of annotated images. */
NTRE_API size_t ntre_memory_shots(const ntre_memory* memory);

/* The IoU of the mask of shot number `shot`, from 0 on, with the one that the other shots give, in [0, 1]; below 0
 * where it was not computed, as with one shot. */
NTRE_API double ntre_memory_shot_score(const ntre_memory* memory, size_t shot);

/* 1 and the calibration where the class was encoded with others: a margin m becomes (m - offset) * scale.  0, and
 * nothing is written, where it was encoded alone.  `offset` and `scale` may be NULL. */
NTRE_API int32_t ntre_memory_calibration(const ntre_memory* memory, double* offset, double* scale);

/* The mean prototype of the shots, `*channels` numbers. */
NTRE_API const float* ntre_memory_prototype(const ntre_memory* memory, size_t* channels);

/* The keys of shot number `shot`, `*depth` rows of `*count` numbers; NULL from the number of shots on, and where the
 * shot has none. */
NTRE_API const float* ntre_memory_keys(const ntre_memory* memory, size_t shot, size_t* depth, size_t* count);

/* ---- Segmenting ---- */

/* Segments an image.  `memories` are `count` classes, 1 to 255; the image is encoded once for all.  Where all of
 * several carry a calibration, their margins are compared by it. `labels` gets width * height bytes, row by row without
 * gaps: 0 background, n the n-th class. `scores` gets a number in [0, 1] for each class, the mean probability over the
 * pixels that it won, or 0 where it won none; NULL saves the time. NTRE_INPUT: no image, no memory, or a memory of
 * another model.  NTRE_ENGINE: the engine failed. */
NTRE_API ntre_status ntre_segment(ntre_segmenter* segmenter, const ntre_image* image,
                                  const ntre_memory* const* memories, size_t count, uint8_t* labels, double* scores);

/* The network's logits for an image, before any calibration: `logits` gets count * 2 * feature height * feature width
 * numbers; of each class first the channel of the rest, then its own.  Errors as `ntre_segment`. */
NTRE_API ntre_status ntre_logits(ntre_segmenter* segmenter, const ntre_image* image, const ntre_memory* const* memories,
                                 size_t count, float* logits);

#ifdef __cplusplus
}
#endif

#endif /* NTRE_H */
