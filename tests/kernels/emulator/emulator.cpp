// The scheduler of the fibres, and one entry per kernel for ctypes.
#include "emulator.hpp"

#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "labels.cu"
#include "prepare.cu"

namespace emulator {

const Thread* current = nullptr;
dim3 block_index, block_size, grid_size;

namespace {

constexpr unsigned kStack = 64 * 1024, kLanes = 32;
enum class State { kReady, kBlock, kWarp, kDone };

struct Fibre {
  Thread thread;
  State state;
  ucontext_t context;
  std::unique_ptr<char[]> stack;
};

std::vector<Fibre> fibres;
std::vector<uint64_t> slots;
ucontext_t scheduler;
unsigned running;
void (*thread_body)(void*);
void* thread_context;

void enter() {
  thread_body(thread_context);
  fibres[running].state = State::kDone;
}

void pause(State state) {
  Fibre& fibre = fibres[running];
  fibre.state = state;
  swapcontext(&fibre.context, &scheduler);
}

// Lets the threads [first, end) go on when all that are not done wait at this barrier.
bool release(unsigned first, unsigned end, State barrier) {
  bool any = false;
  for (unsigned i = first; i < end; ++i) {
    if (fibres[i].state == State::kDone) continue;
    if (fibres[i].state != barrier) return false;
    any = true;
  }
  for (unsigned i = first; any && i < end; ++i) {
    if (fibres[i].state == barrier) fibres[i].state = State::kReady;
  }
  return any;
}

// Runs the warp whose first thread this is until it waits for other warps or is done; false if it did already.
bool run_warp(unsigned first, unsigned count, bool reversed) {
  const unsigned end = first + kLanes < count ? first + kLanes : count;
  bool moved = false;
  do {
    for (unsigned i = first; i < end; ++i) {
      running = reversed ? end - 1 - (i - first) : i;
      if (fibres[running].state != State::kReady) continue;
      current = &fibres[running].thread;
      swapcontext(&scheduler, &fibres[running].context);
      moved = true;
    }
  } while (release(first, end, State::kWarp));
  return moved;
}

bool run_block(unsigned count, bool reversed) {
  for (unsigned i = 0; i < count; ++i) {
    Fibre& fibre = fibres[i];
    const dim3 index = {i % block_size.x, i / block_size.x % block_size.y, i / (block_size.x * block_size.y)};
    fibre.thread = {index, i % kLanes, i / kLanes};
    fibre.state = State::kReady;
    getcontext(&fibre.context);
    fibre.context.uc_stack.ss_sp = fibre.stack.get();
    fibre.context.uc_stack.ss_size = kStack;
    fibre.context.uc_link = &scheduler;
    makecontext(&fibre.context, enter, 0);
  }
  // A warp runs as far as it can before the next one starts, so what lacks a barrier meets the others' old data.
  for (;;) {
    bool moved = false, all_done = true;
    for (unsigned i = 0; i < count; i += kLanes) {
      moved = run_warp(reversed ? (count - 1) / kLanes * kLanes - i : i, count, reversed) || moved;
    }
    for (unsigned i = 0; i < count; ++i) all_done = all_done && fibres[i].state == State::kDone;
    if (all_done) return true;
    moved = release(0, count, State::kBlock) || moved;
    if (!moved) return false;
  }
}

}  // namespace

void block_barrier() { pause(State::kBlock); }
void warp_barrier() { pause(State::kWarp); }
uint64_t* warp_slots() { return slots.data() + current->warp * kLanes * 4; }

bool run(dim3 grid, dim3 block, bool reversed, void (*body)(void*), void* context) {
  const unsigned count = block.x * block.y * block.z;
  grid_size = grid;
  block_size = block;
  thread_body = body;
  thread_context = context;
  if (fibres.size() < count) {
    fibres.resize(count);
    for (Fibre& fibre : fibres) fibre.stack.reset(new char[kStack]);
  }
  slots.assign((count + kLanes - 1) / kLanes * kLanes * 4, 0);
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        block_index = {x, y, z};
        if (!run_block(count, reversed)) return false;
      }
    }
  }
  return true;
}

}  // namespace emulator

void emulated_misaligned(const void* address, std::size_t bytes) {
  std::fprintf(stderr, "a load of %zu bytes from %p is not aligned\n", bytes, address);
  std::abort();
}

#define EMULATED(NAME)                                                                                               \
  extern "C" bool emulate_##NAME(const unsigned* grid, const unsigned* block, void** arguments, bool reversed) {     \
    return emulator::launch(NAME, grid, block, arguments, reversed);                                                 \
  }

EMULATED(prepare_linear_f16)
EMULATED(prepare_linear_f32)
EMULATED(prepare_area_f16)
EMULATED(prepare_area_f32)
EMULATED(label_one_f16)
EMULATED(label_one_f32)
EMULATED(label_many_f16)
EMULATED(label_many_f32)
