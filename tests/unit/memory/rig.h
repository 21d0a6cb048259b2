/*
 * rig.h: frames, a space and a generator of numbers for the tests of memory/.
 */
#ifndef LODGE_TESTS_MEMORY_RIG_H
#define LODGE_TESTS_MEMORY_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/err.h"
#include "base/util.h"
#include "memory/space.h"

#define RAM 0x80000000ull

static inline struct frames *rig_frames(unsigned nodes, uint64_t bytes)
{
	struct frames_opts o = {.nodes = nodes, .name = "test"};
	struct frames *f;
	struct err e = {0};

	for (unsigned i = 0; i < nodes; i++)
		o.node_bytes[i] = bytes;
	assert_int_equal(frames_create(&f, &o, &e), 0);
	return f;
}

static inline struct space *rig_space(struct frames *f, uint64_t len)
{
	struct space *s;
	struct err e = {0};

	assert_int_equal(space_create(&s, f, &e), 0);
	assert_int_equal(space_add_ram(s, gpa(RAM), len, FRAMES_NODE_ANY, "dram", &e), 0);
	return s;
}

static inline uint64_t rig_free(struct frames *f)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < frames_nodes(f); i++) {
		struct frames_node_stat st;

		frames_node_stat(f, i, &st);
		n += st.free;
	}
	return n;
}

static inline uint32_t rig_random(uint64_t *state)
{
	*state = *state * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)(*state >> 33);
}

#endif
