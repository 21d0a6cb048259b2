/* test_acpi.c: AML's encodings, and the layout and checksums of every table. tests/system/acpi.py has ACPICA's opinion. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/util.h"
#include "machine/acpi.h"
#include "machine/aml.h"
#include "machine/pc_map.h"
#include "machine/topology.h"

static void same(struct aml *a, const uint8_t *want, size_t n)
{
	struct err e = {0};

	assert_int_equal(aml_finish(a, &e), 0);
	assert_int_equal(a->n, n);
	assert_memory_equal(a->p, want, n);
	aml_free(a);
}
#define SAME(a, ...) same(a, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

static void integers(void **state)
{
	struct aml a = {0};

	aml_int(&a, 0);
	aml_int(&a, 1);
	aml_int(&a, 2);
	aml_int(&a, 0xff);
	aml_int(&a, 0x100);
	aml_int(&a, 0x10000);
	aml_int(&a, 0x100000000);
	SAME(&a, 0, 1, 0x0a, 2, 0x0a, 0xff, 0x0b, 0, 1, 0x0c, 0, 0, 1, 0, 0x0e, 0, 0, 0, 0, 1, 0, 0,
		0);
}

static void names(void **state)
{
	struct aml a = {0};

	aml_path(&a, "\\_SB");
	SAME(&a, '\\', '_', 'S', 'B', '_');
	aml_path(&a, "^A.B1");
	SAME(&a, '^', 0x2e, 'A', '_', '_', '_', 'B', '1', '_', '_');
	aml_path(&a, "A.B.C");
	SAME(&a, 0x2f, 3, 'A', '_', '_', '_', 'B', '_', '_', '_', 'C', '_', '_', '_');
	aml_eisaid(&a, "PNP0A08");
	SAME(&a, 0x0c, 0x41, 0xd0, 0x0a, 0x08);
	aml_uuid(&a, "33db4d5b-1ff7-401c-9657-7441c03dd766");
	SAME(&a, 0x11, 0x13, 0x0a, 0x10, 0x5b, 0x4d, 0xdb, 0x33, 0xf7, 0x1f, 0x1c, 0x40, 0x96, 0x57,
		0x74, 0x41, 0xc0, 0x3d, 0xd7, 0x66);
}

static void resources(void **state)
{
	struct aml a = {0};

	aml_resources(&a);
	aml_res_io(&a, 0x3f8, 8);
	aml_res_irq(&a, 4, AML_IRQ_EDGE);
	aml_end(&a);
	SAME(&a, 0x11, 0x16, 0x0a, 19, 0x47, 1, 0xf8, 3, 0xf8, 3, 1, 8, 0x89, 6, 0, 3, 1, 4, 0, 0,
		0, 0x79, 0);
}

/* Every length about the places where the encoding becomes longer. */
static void package_lengths(void **state)
{
	static const size_t about[] = {0x3e, 0xffd, 0xffffc};

	for (size_t i = 0; i < ARRAY_SIZE(about); i++)
		for (size_t body = about[i] - 2; body < about[i] + 3; body++) {
			struct aml a = {0};
			size_t len, extra;

			aml_if(&a);
			for (size_t k = 0; k < body; k++)
				aml_int(&a, 1);
			aml_end(&a);
			assert_int_equal(aml_finish(&a, NULL), 0);
			extra = a.p[1] >> 6;
			len = extra ? a.p[1] & 0xf : a.p[1] & 0x3f;
			for (size_t k = 0; k < extra; k++)
				len |= (size_t)a.p[2 + k] << (4 + 8 * k);
			assert_int_equal(len, 1 + extra + body);
			assert_int_equal(a.n, 1 + len);
			aml_free(&a);
		}
}

static void wrong_aml(struct aml *a, const char *why)
{
	struct err e = {0};

	assert_int_equal(aml_finish(a, &e), -EINVAL);
	assert_non_null(strstr(e.msg, why));
	aml_free(a);
}

static void aml_errors(void **state)
{
	struct aml a = {0};

	aml_scope(&a, "\\_SB");
	wrong_aml(&a, "not closed");
	aml_end(&a);
	wrong_aml(&a, "too many");
	aml_path(&a, "TOOLONG");
	wrong_aml(&a, "name");
	aml_path(&a, "1ABC");
	wrong_aml(&a, "name");
	aml_path(&a, "A..B");
	wrong_aml(&a, "empty segment");
	aml_eisaid(&a, "pnp0a08");
	wrong_aml(&a, "EISA");
	aml_uuid(&a, "33db4d5b-1ff7-401c-9657-7441c03dd76");
	wrong_aml(&a, "UUID");
	for (unsigned i = 0; i <= AML_DEPTH; i++)
		aml_if(&a);
	wrong_aml(&a, "deeply");
	aml_field(&a, "REGN", "FLD1", 64);
	wrong_aml(&a, "field");
}

static const struct topology_range hole = {3 * GiB, GiB};

static const struct acpi_table *find(const struct acpi_tables *t, const char *name)
{
	for (unsigned i = 0; i < t->n; i++)
		if (!strcmp(t->table[i].name, name))
			return &t->table[i];
	return NULL;
}

static uint8_t sum(const uint8_t *p, size_t n)
{
	uint8_t s = 0;

	while (n--)
		s = (uint8_t)(s + *p++);
	return s;
}

static void make(struct topology *t, struct acpi_opts *o, struct acpi_tables *out, unsigned cpus,
	unsigned nodes, uint64_t memory)
{
	assert_int_equal(topology_init_hole(t, cpus, nodes, 0, memory, &hole, NULL), 0);
	assert_int_equal(topology_add_device(t, "net", "any", 0, 3, NULL), 0);
	o->topology = t;
	o->base = PC_ACPI;
	o->max = PC_ACPI_MAX;
	assert_int_equal(acpi_build(o, out, NULL), 0);
}

/* Root pointer, list, and everything that it leads to: in place, checksums right, nothing overlaps. */
static void chain(const struct acpi_tables *t)
{
	const uint8_t *b = t->blob, *x;
	uint64_t at = get_le64(b + 24) - PC_ACPI;
	unsigned listed = 0;

	assert_memory_equal(b, "RSD PTR ", 8);
	assert_int_equal(sum(b, 20), 0);
	assert_int_equal(sum(b, 36), 0);
	assert_int_equal(b[15], 2);
	assert_int_equal(get_le32(b + 20), 36);
	assert_int_equal(at, find(t, "XSDT")->off);
	x = b + at;
	for (unsigned i = 36; i < get_le32(x + 4); i += 8, listed++) {
		const uint8_t *p = b + (get_le64(x + i) - PC_ACPI);
		char name[5] = {0};

		memcpy(name, p, 4);
		assert_non_null(find(t, name));
		assert_int_equal(find(t, name)->off, p - b);
	}
	assert_int_equal(listed, find(t, "SLIT") ? 5 : 4);
	for (unsigned i = 1; i < t->n; i++) {
		const uint8_t *p = b + t->table[i].off;

		assert_memory_equal(p, t->table[i].name, 4);
		assert_int_equal(get_le32(p + 4), t->table[i].len);
		assert_true(t->table[i].off >= t->table[i - 1].off + t->table[i - 1].len);
		assert_true(t->table[i].off + t->table[i].len <= t->len);
		if (strcmp(t->table[i].name, "FACS"))
			assert_int_equal(sum(p, t->table[i].len), 0);
	}
}

static void layout(void **state)
{
	static const struct {
		unsigned cpus, nodes;
		uint64_t memory;
		bool full;
		uint32_t step;
	} v[] = {{1, 1, 64 * MiB, false, 1}, {4, 2, 5 * GiB, false, 1},
		{128, 8, 64 * GiB, false, 4}, {2, 1, GiB, true, 1}, {8, 8, 3 * GiB, true, 64}};

	for (size_t i = 0; i < ARRAY_SIZE(v); i++) {
		struct acpi_opts o = {.full = v[i].full, .pci_high = 64 * GiB, .pci_high_len = GiB};
		struct acpi_tables t;
		struct topology top;
		const uint8_t *p;

		for (unsigned k = 0; k < CPU_MAX_VCPUS; k++)
			o.apic_id[k] = k * v[i].step;
		make(&top, &o, &t, v[i].cpus, v[i].nodes, v[i].memory);
		chain(&t);
		assert_int_equal(!!find(&t, "FACS"), v[i].full);
		assert_int_equal(!!find(&t, "SLIT"), v[i].nodes > 1);
		p = t.blob + find(&t, "FACP")->off;
		assert_int_equal(!!(get_le32(p + 112) & 1 << 20), !v[i].full);
		assert_int_equal(get_le64(p + 140), PC_ACPI + find(&t, "DSDT")->off);
		assert_int_equal(get_le64(p + 120), pc_map[PC_GED].base + 0x202);
		if (v[i].full)
			assert_int_equal(get_le32(p + 36) % 64, 0);
		else
			assert_int_equal(get_le64(p + 248), pc_map[PC_GED].base + 0x200);
		p = t.blob + find(&t, "MCFG")->off;
		assert_int_equal(get_le64(p + 44), pc_map[PC_ECAM].base);
		assert_int_equal(p[55], 255);
		acpi_free(&t);
	}
}

/* Every processor is in the MADT and the SRAT, once, by the id that its kind of entry can hold; memory adds up. */
static void processors_and_memory(void **state)
{
	struct acpi_opts o = {0};
	struct acpi_tables t;
	struct topology top;
	const struct acpi_table *m, *s;
	uint64_t memory = 0;
	unsigned seen = 0, near = 0, far = 0;

	for (unsigned k = 0; k < CPU_MAX_VCPUS; k++)
		o.apic_id[k] = k * 4;
	make(&top, &o, &t, 100, 3, 6 * GiB);
	m = find(&t, "APIC");
	for (const uint8_t *p = t.blob + m->off + 44, *end = t.blob + m->off + m->len; p < end;
		p += p[1]) {
		assert_true(p[1] >= 6 && p + p[1] <= end);
		if (p[0] == 0) {
			assert_int_equal(p[3], o.apic_id[p[2]]);
			seen++;
		} else if (p[0] == 9) {
			assert_true(get_le32(p + 4) > 254);
			assert_int_equal(get_le32(p + 4), o.apic_id[get_le32(p + 12)]);
			seen++;
		} else if (p[0] == 1) {
			assert_int_equal(get_le32(p + 4), pc_map[PC_IOAPIC].base);
		}
	}
	assert_int_equal(seen, 100);
	s = find(&t, "SRAT");
	for (const uint8_t *p = t.blob + s->off + 48, *end = t.blob + s->off + s->len; p < end;
		p += p[1]) {
		assert_true(p[1] >= 16 && p + p[1] <= end);
		if (p[0] == 1) {
			uint64_t base = get_le64(p + 8), len = get_le64(p + 16);

			assert_true(base + len <= hole.base || base >= hole.base + hole.len);
			memory += len;
		}
		near += p[0] == 0;
		far += p[0] == 2;
	}
	assert_int_equal(memory, 6 * GiB);
	assert_int_equal(near, 64);
	assert_int_equal(far, 36);
	acpi_free(&t);
}

static void refused(void **state)
{
	struct acpi_opts o = {.base = PC_ACPI, .max = 1000};
	struct acpi_tables t;
	struct topology top;
	struct err e = {0};

	assert_int_equal(topology_init_hole(&top, 2, 1, 0, GiB, &hole, NULL), 0);
	o.topology = &top;
	assert_int_equal(acpi_build(&o, &t, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "same APIC id"));
	o.apic_id[1] = 1;
	assert_int_equal(acpi_build(&o, &t, &e), -E2BIG);
	o.base = 100;
	assert_int_equal(acpi_build(&o, &t, &e), -EINVAL);
}

static void same_bytes(void **state)
{
	struct acpi_opts o = {.apic_id = {0, 1, 2, 3}};
	struct acpi_tables a, b;
	struct topology top;

	make(&top, &o, &a, 4, 2, GiB);
	make(&top, &o, &b, 4, 2, GiB);
	assert_int_equal(a.len, b.len);
	assert_memory_equal(a.blob, b.blob, a.len);
	acpi_free(&a);
	acpi_free(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(integers),
		cmocka_unit_test(names),
		cmocka_unit_test(resources),
		cmocka_unit_test(package_lengths),
		cmocka_unit_test(aml_errors),
		cmocka_unit_test(layout),
		cmocka_unit_test(processors_and_memory),
		cmocka_unit_test(refused),
		cmocka_unit_test(same_bytes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
