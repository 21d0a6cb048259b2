/*
 * engine.h: what the rv64 engine shows to the table of engines.
 */
#ifndef LODGE_CPU_RV64_ENGINE_H
#define LODGE_CPU_RV64_ENGINE_H

#include "cpu/cpu.h"

extern const struct cpu_engine_ops rv64_engine;

#endif
