#include "cli/ui/print.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"

void print_json(const json_t *j)
{
	json_dumpf(j, stdout, JSON_COMPACT | JSON_ENCODE_ANY);
	putchar('\n');
}

void print_json_drop(json_t *j)
{
	print_json(j);
	json_decref(j);
}

const char *print_size(char text[PRINT_SIZE], uint64_t bytes)
{
	static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
	double v = (double)bytes;
	unsigned u = 0;

	while (v >= 1024 && u + 1 < ARRAY_SIZE(unit)) {
		v /= 1024;
		u++;
	}
	snprintf(text, PRINT_SIZE, v == (double)(uint64_t)v ? "%.0f %s" : "%.1f %s", v, unit[u]);
	return text;
}

const char *print_s(uint64_t n)
{
	return n == 1 ? "" : "s";
}

static bool is_bytes(const char *key)
{
	static const char *const keys[] = {"size", "memory", "host_size", "allocated",
		"cluster_size", "vm_size", "granularity", "dirty", "block_size", "sub_block_size",
		"journal", "max_size", "bitmaps", "required", "fully_allocated", "store_required",
		"store_fully_allocated"};

	for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
		if (!strcmp(keys[i], key))
			return true;
	return false;
}

static void print_inside(const json_t *o, int indent);

/* A name that somebody else chose. */
static void print_text(const char *key, const char *value, int indent)
{
	cleanup(free_ptr) char *text = strdup(value);

	printf("%*s%-*s %s\n", indent, "", 22 - indent, key, text ? text_one_line(text) : "");
}

static void print_field(const char *key, const json_t *v, int indent)
{
	char size[PRINT_SIZE];
	uint64_t n = (uint64_t)json_integer_value(v);

	if (json_is_array(v) && !json_array_size(v)) {
		printf("%*s%-*s none\n", indent, "", 22 - indent, key);
	} else if (json_is_object(v) || json_is_array(v)) {
		printf("%*s%s:\n", indent, "", key);
		print_inside(v, indent + 2);
	} else if (json_is_integer(v) && is_bytes(key)) {
		printf("%*s%-*s %s (%" PRIu64 ")\n", indent, "", 22 - indent, key,
			print_size(size, n), n);
	} else {
		cleanup(free_ptr) char *text = json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY);

		if (json_is_string(v))
			print_text(key, json_string_value(v), indent);
		else
			printf("%*s%-*s %s\n", indent, "", 22 - indent, key, text ?: "");
	}
}

static void print_inside(const json_t *o, int indent)
{
	const char *k;
	json_t *v;
	size_t i;

	if (json_is_array(o)) {
		json_array_foreach((json_t *)(uintptr_t)o, i, v)
		{
			char n[24];

			snprintf(n, sizeof(n), "%zu", i);
			print_field(n, v, indent);
		}
		return;
	}
	json_object_foreach((json_t *)(uintptr_t)o, k, v) print_field(k, v, indent);
}

void print_fields(const json_t *o)
{
	print_inside(o, 0);
}
