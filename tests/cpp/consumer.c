/* A program in C99 that knows the installed header alone: reads a memory, writes it anew, and meets errors. */
#include <ntre/ntre.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int told = 0;

static void warn(const char* text, void* user) {
  printf("warning %s\n", text);
  ++*(int*)user;
}

#define NEED(what)                                                 \
  do {                                                             \
    if (!(what)) {                                                 \
      printf("line %d: %s (%s)\n", __LINE__, #what, ntre_last_error()); \
      return 1;                                                    \
    }                                                              \
  } while (0)

int main(int count, char** words) {
  ntre_options options = NTRE_OPTIONS;
  ntre_memory* memory = (ntre_memory*)words;
  ntre_segmenter* segmenter = (ntre_segmenter*)words;
  size_t size = 0, channels = 0, depth = 0, keys = 0;
  uint8_t* bytes;

  NEED(count == 3);
  NEED(ntre_abi_version() == NTRE_ABI_VERSION);
  NEED(strcmp(ntre_version(), NTRE_VERSION) == 0);
  NEED(options.size == sizeof options && options.engine == NULL);
  NEED(strcmp(ntre_last_error(), "") == 0);

  NEED(ntre_memory_load("nowhere", NULL, NULL, &memory) == NTRE_INPUT);
  NEED(memory == NULL);
  printf("%s\n", ntre_last_error());
  NEED(ntre_load("nowhere", &options, &segmenter) == NTRE_INPUT);
  NEED(segmenter == NULL);
  printf("%s\n", ntre_last_error());

  NEED(ntre_memory_load(words[1], warn, &told, &memory) == NTRE_OK);
  NEED(told == 0);
  NEED(ntre_memory_prototype(memory, &channels) != NULL);
  NEED(ntre_memory_keys(memory, 0, &depth, &keys) != NULL);
  NEED(ntre_memory_keys(memory, ntre_memory_shots(memory), NULL, NULL) == NULL);
  printf("%s %s %zu %zu %zu %zu %.3f\n", ntre_memory_name(memory), ntre_memory_model(memory), ntre_memory_shots(memory),
         channels, depth, keys, ntre_memory_shot_score(memory, 1));

  NEED(ntre_memory_to_bytes(memory, NULL, &size) == NTRE_OK);
  bytes = malloc(size);
  NEED(bytes != NULL);
  size -= 1;
  NEED(ntre_memory_to_bytes(memory, bytes, &size) == NTRE_INPUT);
  NEED(ntre_memory_to_bytes(memory, bytes, &size) == NTRE_OK);
  ntre_memory_free(memory);
  NEED(ntre_memory_from_bytes(bytes, size, NULL, NULL, &memory) == NTRE_OK);
  NEED(ntre_memory_save(memory, words[2]) == NTRE_OK);
  ntre_memory_free(memory);
  ntre_memory_free(NULL);
  ntre_segmenter_free(NULL);
  free(bytes);
  return 0;
}
