#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include <jansson.h>

#include "base/err.h"
#include "base/util.h"
#include "machine/topology.h"

#define BASE 0x80000000ull

static void every_shape_adds_up(void **state)
{
	struct topology t;
	struct err e = {0};

	for (unsigned harts = 1; harts <= CPU_MAX_VCPUS; harts += 7)
		for (unsigned nodes = 1; nodes <= TOPOLOGY_NODES; nodes++) {
			if (topology_init(&t, harts, nodes, BASE, 34 * MiB, &e))
				fail_msg("%s", err_msg(&e));
			assert_true(t.node[0].len >= t.node[nodes - 1].len);
			assert_true(t.node[0].len - t.node[nodes - 1].len <= 2 * MiB);
		}
}

static void uneven_shapes_favour_the_first(void **state)
{
	struct topology t;

	assert_int_equal(topology_init(&t, 5, 2, BASE, 6 * MiB, NULL), 0);
	assert_int_equal(t.node[0].harts, 3);
	assert_int_equal(t.node[1].first_hart, 3);
	assert_int_equal(t.hart[4].node, 1);
	assert_int_equal(t.hart[4].core, 1);
	assert_true(t.node[0].len == 4 * MiB);
	assert_true(t.node[1].base == BASE + 4 * MiB);
	assert_int_equal(t.distance[0][0], 10);
	assert_int_equal(t.distance[0][1], 20);
}

static void limits_are_named(void **state)
{
	struct topology t;
	struct err e = {0};

	assert_int_equal(topology_init(&t, 129, 1, BASE, GiB, &e), -EINVAL);
	assert_non_null(strstr(err_msg(&e), "129 vCPUs: 1 to 128"));
	assert_int_equal(topology_init(&t, 1, 1, BASE, 2 * MiB, &e), -EINVAL);
	assert_int_equal(topology_init(&t, 1, 1, BASE, 5 * MiB, &e), -EINVAL);
	assert_int_equal(topology_init(&t, 1, 4, BASE, 6 * MiB, &e), -EINVAL);
	assert_int_equal(topology_init(&t, 1, 3, BASE, 6 * MiB, &e), 0);
}

static void check_finds_what_is_wrong(void **state)
{
	struct topology good, t;

	assert_int_equal(topology_init(&good, 4, 2, BASE, 8 * MiB, NULL), 0);
#define BREAK(change) \
	do { \
		t = good; \
		assert_int_equal(topology_check(&t, NULL), 0); \
		change; \
		assert_int_equal(topology_check(&t, NULL), -EINVAL); \
	} while (0)
	BREAK(t.node[1].base += 2 * MiB);
	BREAK(t.node[1].len = 0);
	BREAK(t.node[0].len += 4096);
	BREAK(t.node[1].first_hart = 1);
	BREAK(t.node[1].harts = 1);
	BREAK(t.hart[2].node = 0);
	BREAK(t.hart[2].node = 9);
	BREAK(t.distance[0][1] = 30);
	BREAK(t.distance[0][1] = t.distance[1][0] = 10);
	BREAK(t.distance[1][1] = 11);
	BREAK(t.harts = 5);
	BREAK(t.memory += 2 * MiB);
}

static void devices_have_names_of_their_own(void **state)
{
	struct topology t;
	char id[16];
	json_t *j;

	assert_int_equal(topology_init(&t, 1, 1, BASE, 8 * MiB, NULL), 0);
	assert_int_equal(topology_add_device(&t, "blk.0", "virtio-blk", 0, 1, NULL), 0);
	assert_int_equal(topology_add_device(&t, "blk.0", "virtio-net", 0, 2, NULL), -EEXIST);
	assert_int_equal(topology_add_device(&t, "blk.1", "virtio-blk", 1, 2, NULL), -EINVAL);
	assert_int_equal(topology_add_device(&t, "", "virtio-blk", 0, 2, NULL), -EINVAL);
	for (unsigned i = 1; i < TOPOLOGY_DEVICES; i++) {
		snprintf(id, sizeof(id), "d.%u", i);
		assert_int_equal(topology_add_device(&t, id, "x", 0, -1, NULL), 0);
	}
	assert_int_equal(topology_add_device(&t, "last", "x", 0, -1, NULL), -ENOSPC);
	j = topology_json(&t);
	assert_int_equal(json_array_size(json_object_get(j, "devices")), TOPOLOGY_DEVICES);
	assert_int_equal(json_array_size(json_object_get(j, "nodes")), 1);
	json_decref(j);
}

/* RAM that does not fit below the hole goes on behind it, wherever the hole cuts. */
static void hole(void **state)
{
	static const struct topology_range at = {3 * GiB, GiB};
	struct topology_range r[2];
	struct topology t;

	assert_int_equal(topology_init_hole(&t, 2, 2, 0, 2 * GiB, &at, NULL), 0);
	assert_int_equal(topology_ram_end(&t), 2 * GiB);
	assert_int_equal(topology_low_end(&t), 2 * GiB);
	assert_int_equal(topology_init_hole(&t, 2, 2, 0, 3 * GiB, &at, NULL), 0);
	assert_int_equal(topology_ram_end(&t), 3 * GiB);
	assert_int_equal(topology_init_hole(&t, 2, 2, 0, 4 * GiB, &at, NULL), 0);
	assert_int_equal(topology_ram_end(&t), 5 * GiB);
	assert_int_equal(topology_low_end(&t), 3 * GiB);
	assert_int_equal(topology_node_ranges(&t, 0, r), 1);
	assert_int_equal(topology_node_ranges(&t, 1, r), 2);
	assert_int_equal(r[0].base, 2 * GiB);
	assert_int_equal(r[0].len, GiB);
	assert_int_equal(r[1].base, 4 * GiB);
	assert_int_equal(r[1].len, GiB);
	/* A node that begins exactly at the hole. */
	assert_int_equal(topology_init_hole(&t, 2, 2, 0, 6 * GiB, &at, NULL), 0);
	assert_int_equal(t.node[1].base, 4 * GiB);
	assert_int_equal(topology_node_ranges(&t, 0, r), 1);
	assert_int_equal(topology_node_ranges(&t, 1, r), 1);
	assert_int_equal(topology_check(&t, NULL), 0);
	t.hole.len = 1;
	assert_int_equal(topology_check(&t, NULL), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_shape_adds_up),
		cmocka_unit_test(uneven_shapes_favour_the_first),
		cmocka_unit_test(limits_are_named),
		cmocka_unit_test(check_finds_what_is_wrong),
		cmocka_unit_test(devices_have_names_of_their_own),
		cmocka_unit_test(hole),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
