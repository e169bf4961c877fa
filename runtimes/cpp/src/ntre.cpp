#include "ntre/ntre.h"

extern "C" {

const char* ntre_version(void) { return NTRE_VERSION; }

}  // extern "C"
