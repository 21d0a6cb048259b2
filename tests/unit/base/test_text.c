#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/err.h"
#include "base/json.h"
#include "base/size.h"
#include "base/spell.h"
#include "base/strbuf.h"
#include "base/util.h"

static void strbuf_grows(void **state)
{
	struct strbuf sb = {0};
	char *text;

	assert_string_equal(strbuf_text(&sb), "");
	for (int i = 0; i < 100; i++)
		strbuf_addf(&sb, "%d,", i % 10);
	strbuf_addc(&sb, '.');
	strbuf_adds(&sb, "end");
	assert_int_equal(sb.len, 204);
	text = strbuf_steal(&sb);
	assert_string_equal(text + 198, "9,.end");
	free(text);
	text = strbuf_steal(&sb);
	assert_string_equal(text, "");
	free(text);
}

static void sizes(void **state)
{
	static const struct {
		const char *text;
		uint64_t v;
	} good[] = {{"0", 0}, {"512M", 512 * MiB}, {"2G", 2 * GiB}, {"2g", 2 * GiB},
		{"64KiB", 64 * KiB}, {"3B", 3}, {"1T", 1ull << 40}, {"16MB", 16 * MiB}};
	static const struct {
		const char *text, *say;
	} bad[] = {{"3", "has no unit: write 3M or 3G"}, {"", "not a size"}, {"-1G", "not a size"},
		{"1.5G", "not a whole number"}, {"1X", "unknown unit"}, {"1Mx", "unknown unit"},
		{"99999999999T", "more than 64 bits"},
		{"99999999999999999999999", "more than 64 bits"}, {" 1G", "not a size"},
		{"3BiB", "unknown unit"}};
	char text[SIZE_TEXT];
	struct err e = {0};
	uint64_t v;

	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		assert_int_equal(size_parse(good[i].text, &v, &e), 0);
		assert_true(v == good[i].v);
		assert_int_equal(size_parse(size_text(text, v), &v, &e), 0);
		assert_true(v == good[i].v);
	}
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_int_equal(size_parse(bad[i].text, &v, &e), -EINVAL);
		assert_non_null(strstr(e.msg, bad[i].say));
	}
	assert_string_equal(size_text(text, 1536 * MiB), "1536M");
	assert_string_equal(size_text(text, UINT64_MAX), "18446744073709551615B");
	assert_int_equal(size_parse(text, &v, &e), 0);
	assert_int_equal(uint_parse("0x10", &v, &e), 0);
	assert_int_equal(v, 16);
	assert_int_equal(uint_parse("18446744073709551616", &v, &e), -EINVAL);
	assert_int_equal(uint_parse("+1", &v, &e), -EINVAL);
	assert_int_equal(uint_parse("1 ", &v, &e), -EINVAL);
}

static void spelling(void **state)
{
	static const char *const names[] = {"memory", "smp", "kernel", "initrd", "detach"};

	assert_int_equal(spell_distance("kernel", "kernel"), 0);
	assert_int_equal(spell_distance("kernle", "kernel"), 1);
	assert_int_equal(spell_distance("", "abc"), 3);
	assert_int_equal(spell_distance("kitten", "sitting"), 3);
	assert_int_equal(spell_distance("ab", "ba"), 1);
	assert_string_equal(spell_nearest("memroy", names, 5), "memory");
	assert_string_equal(spell_nearest("spm", names, 5), "smp");
	assert_string_equal(spell_nearest("mem", names, 5), "memory");
	assert_null(spell_nearest("qqqqqq", names, 5));
	assert_null(spell_nearest("", names, 5));
	char big[300];

	memset(big, 'x', 299);
	big[299] = 0;
	assert_null(spell_nearest(big, names, 5));
}

static void json_from_outside(void **state)
{
	static const char *const keys[] = {"name", "timeout", "force"};
	cleanup(json_drop) json_t *j = NULL;
	const char *text = NULL;
	struct err e = {0};
	uint64_t v = 5;
	bool b = true;
	json_t *sub;

#define PARSE(s) json_parse(s, strlen(s), &j, &e)
	assert_int_equal(PARSE("{\"a\":1,\"a\":2}"), -EINVAL);
	assert_int_equal(PARSE("{\"a\":1\n,}"), -EINVAL);
	assert_non_null(strstr(e.msg, "line 2"));
	assert_int_equal(PARSE("{\"name\": \"x\", \"timeout\": -1, \"fource\": 1}"), 0);
	assert_int_equal(json_want_text(j, "stop", "name", true, &text, &e), 0);
	assert_string_equal(text, "x");
	assert_int_equal(json_want_u64(j, "stop", "timeout", true, &v, &e), -EINVAL);
	assert_string_equal(e.msg, "stop: \"timeout\" is negative");
	assert_int_equal(json_want_u64(j, "stop", "name", true, &v, &e), -EINVAL);
	assert_string_equal(e.msg, "stop: \"name\" is a text instead of a whole number");
	assert_int_equal(json_want_u64(j, "stop", "none", true, &v, &e), -EINVAL);
	assert_string_equal(e.msg, "stop: \"none\" is missing");
	assert_int_equal(json_want_u64(j, "stop", "none", false, &v, &e), 0);
	assert_int_equal(v, 5);
	assert_int_equal(json_want_bool(j, "stop", "name", true, &b, &e), -EINVAL);
	assert_int_equal(json_want_object(j, "stop", "name", true, &sub, &e), -EINVAL);
	assert_int_equal(json_want_array(j, "stop", "name", true, &sub, &e), -EINVAL);
	assert_int_equal(json_only_keys(j, "stop", keys, 3, &e), -EINVAL);
	assert_string_equal(e.msg, "stop: unknown key \"fource\": did you mean \"force\"?");
	assert_int_equal(json_object_del(j, "fource"), 0);
	assert_int_equal(json_only_keys(j, "stop", keys, 3, &e), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(strbuf_grows),
		cmocka_unit_test(sizes),
		cmocka_unit_test(spelling),
		cmocka_unit_test(json_from_outside),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
