#ifndef NTRE_H
#define NTRE_H

#include <stddef.h>
#include <stdint.h>

#include "ntre/version.h"

#if defined(NTRE_STATIC)
#define NTRE_API
#elif defined(_WIN32)
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

NTRE_API const char* ntre_version(void);

#ifdef __cplusplus
}
#endif

#endif
