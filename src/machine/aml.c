#include "machine/aml.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"

/* Opcodes (ACPI 6.4, table 20.1 and section 20.2.5). */
enum {
	ZERO_OP = 0x00,
	ONE_OP = 0x01,
	NAME_OP = 0x08,
	BYTE_PREFIX = 0x0a,
	WORD_PREFIX = 0x0b,
	DWORD_PREFIX = 0x0c,
	STRING_PREFIX = 0x0d,
	QWORD_PREFIX = 0x0e,
	SCOPE_OP = 0x10,
	BUFFER_OP = 0x11,
	PACKAGE_OP = 0x12,
	METHOD_OP = 0x14,
	DUAL_NAME = 0x2e,
	MULTI_NAME = 0x2f,
	EXT_OP = 0x5b,
	LOCAL0_OP = 0x60,
	ARG0_OP = 0x68,
	STORE_OP = 0x70,
	AND_OP = 0x7b,
	OR_OP = 0x7d,
	NOTIFY_OP = 0x86,
	DWORD_FIELD_OP = 0x8a,
	NOT_OP = 0x92,
	EQUAL_OP = 0x93,
	IF_OP = 0xa0,
	ELSE_OP = 0xa1,
	RETURN_OP = 0xa4,
	EXT_REGION = 0x80,
	EXT_FIELD = 0x81,
	EXT_DEVICE = 0x82,
};

#define PACKAGE_MAX ((1u << 28) - 1)

static void wrong(struct aml *a, const char *what)
{
	if (!a->wrong)
		a->wrong = what;
}

static bool room(struct aml *a, size_t n)
{
	if (a->wrong)
		return false;
	if (a->n + n > a->cap) {
		size_t cap = (a->n + n) * 2;
		uint8_t *p = realloc(a->p, cap);

		if (!p) {
			wrong(a, "no memory");
			return false;
		}
		a->p = p;
		a->cap = cap;
	}
	return true;
}

static void put(struct aml *a, const void *bytes, size_t n)
{
	if (!room(a, n))
		return;
	memcpy(a->p + a->n, bytes, n);
	a->n += n;
}

static void byte(struct aml *a, unsigned v)
{
	uint8_t b = (uint8_t)v;

	put(a, &b, 1);
}

static void le(struct aml *a, uint64_t v, unsigned size)
{
	for (unsigned i = 0; i < size; i++)
		byte(a, (unsigned)(v >> (8 * i)));
}

/* Makes room for n bytes at `at` and fills it. */
static void insert(struct aml *a, size_t at, const void *bytes, size_t n)
{
	if (!room(a, n))
		return;
	memmove(a->p + at + n, a->p + at, a->n - at);
	memcpy(a->p + at, bytes, n);
	a->n += n;
}

/* PkgLength (20.2.4): counts itself too. */
static unsigned package_length(uint8_t out[4], size_t body)
{
	unsigned extra = body + 1 <= 0x3f ? 0 : body + 2 <= 0xfff ? 1 : body + 3 <= 0xfffff ? 2 : 3;
	size_t len = body + 1 + extra;

	if (!extra) {
		out[0] = (uint8_t)len;
		return 1;
	}
	out[0] = (uint8_t)(extra << 6 | (len & 0xf));
	for (unsigned i = 1; i <= extra; i++)
		out[i] = (uint8_t)(len >> (4 + 8 * (i - 1)));
	return 1 + extra;
}

static void begin(struct aml *a, bool resources)
{
	if (a->depth == AML_DEPTH)
		wrong(a, "nested too deeply");
	if (!a->wrong)
		a->open[a->depth++] = (struct aml_open){a->n, resources};
}

static unsigned encode_int(uint8_t out[9], uint64_t v)
{
	static const struct {
		uint64_t max;
		uint8_t prefix, size;
	} forms[] = {{0xff, BYTE_PREFIX, 1}, {0xffff, WORD_PREFIX, 2},
		{0xffffffff, DWORD_PREFIX, 4}, {UINT64_MAX, QWORD_PREFIX, 8}};
	unsigned i = 0;

	if (v < 2) {
		out[0] = v ? ONE_OP : ZERO_OP;
		return 1;
	}
	while (v > forms[i].max)
		i++;
	out[0] = forms[i].prefix;
	for (unsigned k = 0; k < forms[i].size; k++)
		out[1 + k] = (uint8_t)(v >> (8 * k));
	return 1u + forms[i].size;
}

void aml_end(struct aml *a)
{
	struct aml_open o;
	uint8_t head[9];

	if (!a->depth)
		wrong(a, "an end too many");
	if (a->wrong)
		return;
	o = a->open[--a->depth];
	if (o.resources) {
		byte(a, 0x79); /* end tag; checksum 0: not checked */
		byte(a, 0);
		insert(a, o.at, head, encode_int(head, a->n - o.at));
	}
	if (a->n - o.at > PACKAGE_MAX - 4)
		wrong(a, "a package is too long");
	if (!a->wrong)
		insert(a, o.at, head, package_length(head, a->n - o.at));
}

int aml_finish(struct aml *a, struct err *e)
{
	if (a->depth)
		wrong(a, "a body is not closed");
	return a->wrong ? err_set(e, -EINVAL, "AML: %s", a->wrong) : 0;
}

void aml_free(struct aml *a)
{
	free(a->p);
	*a = (struct aml){0};
}

static bool lead(char c)
{
	return (c >= 'A' && c <= 'Z') || c == '_';
}

/* NameString (20.2.2): segments are filled up with '_'. */
void aml_path(struct aml *a, const char *path)
{
	uint8_t seg[4 * 8];
	unsigned segs = 0;

	for (; *path == '\\' || *path == '^'; path++)
		byte(a, (uint8_t)*path);
	while (*path) {
		unsigned k = 0;

		if (segs == 8) {
			wrong(a, "a path of too many segments");
			return;
		}
		memset(seg + 4 * segs, '_', 4);
		for (; *path && *path != '.'; path++, k++) {
			if (k == 4 || !(lead(*path) || (k && *path >= '0' && *path <= '9'))) {
				wrong(a, "a name that is none");
				return;
			}
			seg[4 * segs + k] = (uint8_t)*path;
		}
		if (!k || (*path == '.' && !path[1])) {
			wrong(a, "an empty segment in a path");
			return;
		}
		segs++;
		path += *path == '.';
	}
	if (segs == 2)
		byte(a, DUAL_NAME);
	if (segs > 2) {
		byte(a, MULTI_NAME);
		byte(a, segs);
	}
	if (!segs)
		byte(a, 0);
	put(a, seg, 4 * (size_t)segs);
}

void aml_scope(struct aml *a, const char *path)
{
	byte(a, SCOPE_OP);
	begin(a, false);
	aml_path(a, path);
}

void aml_device(struct aml *a, const char *path)
{
	byte(a, EXT_OP);
	byte(a, EXT_DEVICE);
	begin(a, false);
	aml_path(a, path);
}

void aml_method(struct aml *a, const char *path, unsigned args, bool serialized)
{
	byte(a, METHOD_OP);
	begin(a, false);
	aml_path(a, path);
	if (args > 7)
		wrong(a, "a method with more than seven arguments");
	byte(a, args | (serialized ? 8u : 0));
}

void aml_package(struct aml *a, unsigned elements)
{
	byte(a, PACKAGE_OP);
	begin(a, false);
	if (elements > 255)
		wrong(a, "a package of more than 255 elements");
	byte(a, elements);
}

void aml_if(struct aml *a)
{
	byte(a, IF_OP);
	begin(a, false);
}

void aml_else(struct aml *a)
{
	byte(a, ELSE_OP);
	begin(a, false);
}

void aml_resources(struct aml *a)
{
	byte(a, BUFFER_OP);
	begin(a, true);
}

void aml_name(struct aml *a, const char *path)
{
	byte(a, NAME_OP);
	aml_path(a, path);
}

void aml_int(struct aml *a, uint64_t v)
{
	uint8_t b[9];

	put(a, b, encode_int(b, v));
}

void aml_string(struct aml *a, const char *text)
{
	byte(a, STRING_PREFIX);
	for (const char *p = text; *p; p++)
		if (*p & 0x80)
			wrong(a, "a string that is not ASCII");
	put(a, text, strlen(text) + 1);
}

static unsigned hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return (unsigned)(c - '0');
	if (c >= 'a' && c <= 'f')
		return (unsigned)(c - 'a') + 10;
	return c >= 'A' && c <= 'F' ? (unsigned)(c - 'A') + 10 : 16;
}

/* Three letters of five bits and four hexadecimal digits, big-endian in a DWord (19.6.36). */
void aml_eisaid(struct aml *a, const char *id)
{
	uint32_t v = 0;

	if (strlen(id) != 7) {
		wrong(a, "an EISA id that is none");
		return;
	}
	for (unsigned i = 0; i < 3; i++) {
		if (id[i] < 'A' || id[i] > 'Z')
			wrong(a, "an EISA id that is none");
		v = v << 5 | (uint32_t)(id[i] - 0x40);
	}
	for (unsigned i = 3; i < 7; i++) {
		if (hex_digit(id[i]) > 15)
			wrong(a, "an EISA id that is none");
		v = v << 4 | hex_digit(id[i]);
	}
	byte(a, DWORD_PREFIX);
	le(a, be32toh(v), 4);
}

/* ToUUID (19.6.142): the first three groups little-endian. */
void aml_uuid(struct aml *a, const char *text)
{
	static const uint8_t order[16] = {
		6, 4, 2, 0, 11, 9, 16, 14, 19, 21, 24, 26, 28, 30, 32, 34};
	bool ok = strlen(text) == 36;

	byte(a, BUFFER_OP);
	begin(a, false);
	aml_int(a, sizeof(order));
	for (unsigned i = 0; ok && i < sizeof(order); i++) {
		unsigned hi = hex_digit(text[order[i]]), lo = hex_digit(text[order[i] + 1]);

		ok = hi < 16 && lo < 16;
		byte(a, hi << 4 | lo);
	}
	if (!ok)
		wrong(a, "a UUID that is none");
	aml_end(a);
}

void aml_local(struct aml *a, unsigned n)
{
	byte(a, LOCAL0_OP + (n & 7));
}

void aml_arg(struct aml *a, unsigned n)
{
	byte(a, ARG0_OP + (n & 7));
}

void aml_return(struct aml *a)
{
	byte(a, RETURN_OP);
}

void aml_store(struct aml *a)
{
	byte(a, STORE_OP);
}

void aml_and(struct aml *a)
{
	byte(a, AND_OP);
}

void aml_or(struct aml *a)
{
	byte(a, OR_OP);
}

void aml_no_target(struct aml *a)
{
	byte(a, 0);
}

void aml_equal(struct aml *a)
{
	byte(a, EQUAL_OP);
}

void aml_not(struct aml *a)
{
	byte(a, NOT_OP);
}

void aml_dword_field(struct aml *a, unsigned arg, unsigned at, const char *name)
{
	byte(a, DWORD_FIELD_OP);
	aml_arg(a, arg);
	aml_int(a, at);
	aml_path(a, name);
}

void aml_notify(struct aml *a, const char *path, uint64_t value)
{
	byte(a, NOTIFY_OP);
	aml_path(a, path);
	aml_int(a, value);
}

void aml_region(struct aml *a, const char *name, enum aml_space sp, uint64_t base, uint64_t len)
{
	byte(a, EXT_OP);
	byte(a, EXT_REGION);
	aml_path(a, name);
	byte(a, sp);
	aml_int(a, base);
	aml_int(a, len);
}

void aml_field(struct aml *a, const char *region, const char *field, unsigned bits)
{
	uint8_t len[4];

	if ((bits != 8 && bits != 16 && bits != 32) || strlen(field) != 4)
		wrong(a, "a field of another width than 8, 16 or 32, or without a name of four "
			 "letters");
	byte(a, EXT_OP);
	byte(a, EXT_FIELD);
	begin(a, false);
	aml_path(a, region);
	byte(a, bits == 8 ? 1 : bits == 16 ? 2 : 3); /* access width; no lock; preserve */
	aml_path(a, field);
	/* The same encoding as a package's length, but in bits and without itself (20.2.5.2). */
	len[0] = (uint8_t)bits;
	put(a, len, 1);
	aml_end(a);
}

void aml_res_io(struct aml *a, uint16_t base, uint8_t len)
{
	byte(a, 0x47);
	byte(a, 1); /* all 16 address lines decoded */
	le(a, base, 2);
	le(a, base, 2);
	byte(a, 1);
	byte(a, len);
}

void aml_res_memory32(struct aml *a, uint32_t base, uint32_t len)
{
	byte(a, 0x86);
	le(a, 9, 2);
	byte(a, 1);
	le(a, base, 4);
	le(a, len, 4);
}

void aml_res_irq(struct aml *a, uint32_t gsi, enum aml_irq kind)
{
	byte(a, 0x89);
	le(a, 6, 2);
	byte(a, 1u | (kind == AML_IRQ_EDGE ? 2u : 0) | (kind == AML_IRQ_LEVEL_SHARED ? 8u : 0));
	byte(a, 1);
	le(a, gsi, 4);
}

/* Address space descriptors (6.4.3.5) of a producer, with both ends fixed. */
static void window(struct aml *a, unsigned tag, unsigned type, unsigned flags, unsigned width,
	uint64_t first, uint64_t last)
{
	if (first > last)
		wrong(a, "a window that ends before it begins");
	byte(a, tag);
	le(a, 3 + 5 * width, 2);
	byte(a, type);
	byte(a, 0x0c); /* both ends are fixed, positive decode, producer */
	byte(a, flags);
	le(a, 0, width); /* granularity */
	le(a, first, width);
	le(a, last, width);
	le(a, 0, width); /* translation */
	le(a, last - first + 1, width);
}

void aml_res_bus_window(struct aml *a, uint16_t first, uint16_t last)
{
	window(a, 0x88, 2, 0, 2, first, last);
}

void aml_res_io_window(struct aml *a, uint16_t first, uint16_t last)
{
	window(a, 0x88, 1, 3, 2, first, last); /* the whole range */
}

void aml_res_memory_window(struct aml *a, enum aml_window w, uint64_t base, uint64_t len)
{
	/* Bit 0: may be written; bits 1, 2: not cacheable, or prefetchable. */
	if (w == AML_WINDOW_MEM32)
		window(a, 0x87, 0, 1, 4, base, base + len - 1);
	else
		window(a, 0x8a, 0, w == AML_WINDOW_MEM64_PREFETCH ? 7 : 1, 8, base, base + len - 1);
}
