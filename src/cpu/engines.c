/* The one table of engines. */
#include <string.h>

#include "base/util.h"
#include "cpu/kvm/engine.h"
#include "cpu/rv64/engine.h"

static const struct cpu_engine_ops *const engines[] = {&rv64_engine, &kvm_engine};

const struct cpu_engine_ops *cpu_engine_at(unsigned i)
{
	return i < ARRAY_SIZE(engines) ? engines[i] : NULL;
}

const struct cpu_engine_ops *cpu_engine_find(const char *name)
{
	for (unsigned i = 0; i < ARRAY_SIZE(engines); i++)
		if (!strcmp(engines[i]->name, name))
			return engines[i];
	return NULL;
}
