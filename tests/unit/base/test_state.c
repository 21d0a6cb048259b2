/*
 * Described state: round trip, versions, every corruption, digest, diff, JSON.
 *
 * `test_state --write-fixture FILE` writes the stream of the version 1 program; the one in
 * fixtures/ was written when version 1 was current and is not to be written again. `--write-seed
 * FILE` writes a current one, for the fuzzer.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include <jansson.h>
#include <openssl/evp.h>

#include "base/util.h"
#include "state_sample.h"

static void fill(struct sample *s)
{
	*s = (struct sample){
		.u8 = 0x12,
		.u16 = 0x1234,
		.u32 = 0x89abcdef,
		.u64 = 0xfedcba9876543210,
		.i32 = -5,
		.i64 = INT64_MIN,
		.b = true,
		.mode = SAMPLE_ON,
		.bytes = {1, 2, 0, 255, 4},
		.text = "seven77",
		.u16s = {1, 2, 0xffff},
		.u32s = {{1, 2}, {3, 0xffffffff}},
		.u64s = {0, UINT64_MAX, 24},
		.bools = {true, false},
		.one = {.desc = 0x80000000, .size = 8, .ready = true, .burst = 4},
		.queues = {{.desc = 1, .size = 16, .burst = 5},
			{.desc = 2, .size = 32, .ready = true}},
		.speed = 70,
		.bias = -70,
		.hint = 99,
	};
	s->nreqs = 3;
	s->reqs = calloc(3, sizeof(*s->reqs));
	for (unsigned i = 0; i < 3; i++) {
		s->reqs[i].sector = 100 + i;
		s->reqs[i].data_len = i;
		s->reqs[i].data = i ? calloc(1, i) : NULL;
	}
	s->blob_len = 40;
	s->blob = malloc(40);
	memset(s->blob, 0xa5, 40);
}

static void drop(struct sample *s)
{
	state_free(&sample_state, s);
}

static void assert_same(const struct sample *a, const struct sample *b)
{
	char where[100];

	assert_null(state_diff(&sample_state, a, b, where, sizeof(where)));
}

/* A stream of one object "s0" */
struct stream {
	uint8_t *p;
	size_t len;
};

static struct stream save(const struct state_desc *d, struct sample *s)
{
	struct state_obj o = {"s0", d, s};
	struct stream st;
	struct err e = {0};

	assert_int_equal(state_save(&o, 1, &st.p, &st.len, &e), 0);
	return st;
}

static int load(
	const struct state_desc *d, struct sample *s, const struct stream *st, struct err *e)
{
	struct state_obj o = {"s0", d, s};

	*e = (struct err){0};
	return state_load(&o, 1, st->p, st->len, e);
}

static void redigest(struct stream *st)
{
	EVP_Digest(st->p, st->len - 32, st->p + st->len - 32, NULL, EVP_sha256(), NULL);
}

/*
 * Puts `with` in the place of the first `what`; lengths may differ. The digest is made right again.
 */
static void patch(
	struct stream *st, const char *what, size_t what_len, const char *with, size_t with_len)
{
	uint8_t *at = memmem(st->p, st->len, what, what_len);
	size_t off = (size_t)(at - st->p);
	uint8_t *p;

	assert_non_null(at);
	p = malloc(st->len + with_len);
	memcpy(p, st->p, off);
	memcpy(p + off, with, with_len);
	memcpy(p + off + with_len, at + what_len, st->len - off - what_len);
	st->len = st->len + with_len - what_len;
	free(st->p);
	st->p = p;
	redigest(st);
}
#define PATCH(st, a, b) patch(st, a, sizeof(a) - 1, b, sizeof(b) - 1)

static void round_trip(void **state)
{
	struct sample a, b = {.not_described = &a, .nreqs = 1, .reqs = calloc(1, sizeof(*b.reqs))};
	struct stream st;
	struct err e;

	b.reqs[0].data = malloc(3); /* replaced and freed, nested too */
	b.reqs[0].data_len = 3;
	fill(&a);
	st = save(&sample_state, &a);
	assert_int_equal(a.pre_saves, 1);
	assert_int_equal(load(&sample_state, &b, &st, &e), 0);
	assert_same(&a, &b);
	assert_int_equal(b.loads, 1);
	assert_int_equal(b.loaded_version, 2);
	assert_ptr_equal(b.not_described, &a);
	assert_int_equal(b.queues[1].mask, 31);
	assert_int_equal(b.one.mask, 7);
	/* what was saved twice is the same bytes */
	struct stream again = save(&sample_state, &b);

	assert_int_equal(again.len, st.len);
	assert_memory_equal(again.p, st.p, st.len);
	free(again.p);
	free(st.p);
	drop(&a);
	drop(&b);
}

static void many_objects(void **state)
{
	struct sample s[3], t[3] = {0};
	struct state_obj o[3], swapped[3];
	const char *const ids[] = {"cpu0", "cpu1", "disk"};
	struct stream st;
	struct err e = {0};

	for (int i = 0; i < 3; i++) {
		fill(&s[i]);
		s[i].u8 = (uint8_t)i;
		o[i] = (struct state_obj){ids[i], &sample_state, &s[i]};
		swapped[2 - i] = (struct state_obj){ids[i], &sample_state, &t[i]};
	}
	assert_int_equal(state_save(o, 3, &st.p, &st.len, &e), 0);
	assert_int_equal(state_load(swapped, 3, st.p, st.len, &e), 0);
	for (int i = 0; i < 3; i++)
		assert_same(&s[i], &t[i]);
	assert_int_equal(state_load(o, 2, st.p, st.len, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "object disk of the stream is not in this machine"));
	free(st.p);
	assert_int_equal(state_save(o, 2, &st.p, &st.len, &e), 0);
	assert_int_equal(state_load(o, 3, st.p, st.len, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "no object disk"));
	free(st.p);
	o[1].id = "cpu0";
	assert_int_equal(state_save(o, 2, &st.p, &st.len, &e), -EINVAL);
	for (int i = 0; i < 3; i++) {
		drop(&s[i]);
		drop(&t[i]);
	}
}

static void old_version_takes_defaults(void **state)
{
	struct sample s = {.speed = 1, .bias = 1};
	struct stream st = {malloc(4096)};
	FILE *f = fopen(FIXTURES "/sample-v1.cbor", "rb");
	struct err e;

	assert_non_null(f);
	st.len = fread(st.p, 1, 4096, f);
	fclose(f);
	assert_int_equal(load(&sample_state, &s, &st, &e), 0);
	assert_int_equal(s.loaded_version, 1);
	assert_int_equal(s.u32, 0x89abcdef);
	assert_int_equal(s.speed, 7);
	assert_int_equal(s.bias, -3);
	assert_int_equal(s.hint, 9);
	assert_int_equal(s.one.burst, 32);
	assert_int_equal(s.queues[1].burst, 32);
	assert_int_equal(s.queues[1].mask, 31);
	drop(&s);
	free(st.p);
}

static void newer_version_is_refused(void **state)
{
	struct sample s, t = {0};
	struct stream st;
	struct err e;

	fill(&s);
	st = save(&sample_state, &s);
	assert_int_equal(load(&sample_v1, &t, &st, &e), -ENOTSUP);
	assert_non_null(strstr(e.msg, "version 2 of sample is newer than 1"));
	free(st.p);
	drop(&s);
}

/* Each row damages one thing in a good stream and says what must come of it. */
static void each_corruption_is_named(void **state)
{
	static const struct {
		const char *what, *with;
		size_t nwhat, nwith;
		int code;
		const char *text;
	} rows[] = {
#define ROW(a, b, c, t) {a, b, sizeof(a) - 1, sizeof(b) - 1, c, t}
		ROW("\x63u32\x1a\x89\xab\xcd\xef", "\x63u3x\x01", -EINVAL,
			"sample has no field \"u3x\""),
		ROW("\x63u32\x1a\x89\xab\xcd\xef", "\x62u8\x01", -EINVAL,
			"field \"u8\" is there twice"),
		ROW("\x63u32\x1a\x89\xab\xcd\xef", "\x63x3?\x01", -EINVAL,
			"field \"u32\" is missing"),
		ROW("\x63u32\x1a\x89\xab\xcd\xef", "\x63u32\x1b\0\0\0\1\0\0\0\0", -EINVAL,
			"u32: 4294967296 is above 4294967295"),
		ROW("\x63u32\x1a\x89\xab\xcd\xef", "\x63u32\x20", -EINVAL,
			"u32: a negative integer"),
		ROW("\x63u32\x1a\x89\xab\xcd\xef", "\x63u32\x9a\x89\xab\xcd\xef", -EINVAL,
			"u32: an array"),
		ROW("\x63u32\x1a\x89\xab\xcd\xef", "\x63u32\x9f\xff", -EINVAL,
			"u32: something unexpected"),
		ROW("\x63u32\x1a\x89\xab\xcd\xef", "\x63u32\xfa\0\0\0\0", -EINVAL,
			"u32: something"),
		ROW("\x63i32\x24", "\x63i32\x1a\x80\0\0\0", -EINVAL, "i32: 2147483648 is above"),
		ROW("\x63i32\x24", "\x63i32\x3a\x80\0\0\0", -EINVAL,
			"i32: a negative integer does not fit"),
		ROW("\x61\x62\xf5", "\x61\x62\x01", -EINVAL, "b: an integer is not a boolean"),
		ROW("\x65"
		    "bytes\x45\1\2\0\xff\4",
			"\x65"
			"bytes\x44\1\2\0\xff",
			-EINVAL, "bytes: 4 bytes instead of 5"),
		ROW("\x67seven77", "\x68seven777", -EINVAL, "text: text of 8 bytes, at most 7 fit"),
		ROW("\x67seven77",
			"\x67seven\0"
			"7",
			-EINVAL, "text: text has a NUL"),
		ROW("u16s\x83\1\2", "u16s\x82\1", -EINVAL, "u16s: 2 values instead of 3"),
		ROW("queues\x83\x02", "queues\x83\x03", -ENOTSUP,
			"queues: version 3 of sample-queue"),
		ROW("queues\x83\x02", "queues\x80", -EINVAL, "queues: the version is missing"),
		ROW("queues\x83\x02", "queues\x82\x02", -EINVAL, "queues: 1 elements, exactly 2"),
		ROW("queues\x83\x02", "queues\x83\x00", -EINVAL, "queues: version 0"),
		ROW("reqs\x84\x01", "reqs\x86\x01", -EINVAL, "reqs: 5 elements, at most 4"),
		ROW("reqs\x84\x01", "reqs\x9b\xff\xff\xff\xff\xff\xff\xff\xff\x01", -EBADMSG,
			"reqs: offset"),
		ROW("blob\x58\x28", "blob\x58\x41", -EINVAL, "blob: 65 bytes, at most 64 fit"),
		ROW("blob\x58\x28", "blob\x5b\xff\xff\xff\xff\xff\xff\xff\xff", -EBADMSG,
			"blob: offset"),
		ROW("\x64mode\x01", "\x64mode\x02", -EINVAL, "sample cannot be in this state"),
		ROW("size\x18\x20", "size\x18\x21", -EINVAL,
			"queues: size 33 is not a power of two"),
		ROW("\x65speed\x18\x46", "\x65turbo\x18\x46", -EINVAL,
			"version 2 of sample has no field \"turbo\""),
		ROW("version\x02", "version\x03", -ENOTSUP, "version 3 of sample is newer"),
		ROW("version\x02", "version\x01", -EINVAL,
			"version 1 of sample has no field \"speed\""),
		ROW("\x62id\x62s0", "\x62id\x62s1", -EINVAL, "object s1 of the stream"),
		ROW("type\x66sample", "type\x66simple", -EINVAL,
			"s0 is a simple in the stream and a sample"),
		ROW("objects\x81", "objects\x80", -EINVAL, "the stream has no object s0"),
		ROW("objects\x81", "objects\x82", -EINVAL, "a text where a map belongs"),
		ROW("\x65lodge\x01", "\x65lodge\x02", -ENOTSUP, "format 2"),
		ROW("\x65lodge\x01", "\x65hotel\x01", -EBADMSG, "not a Lodge state stream"),
		ROW("\x66"
		    "digest\x58\x20",
			"\x66"
			"digesT\x58\x20",
			-EBADMSG, "key \"digest\""),
		ROW("\x66"
		    "digest\x58\x20",
			"\x66"
			"digest\x58\x1f",
			-EBADMSG, "digest is not at the end"),
	};

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct sample s, before, t;
		struct stream st;
		struct err e;
		int r;

		fill(&s);
		fill(&t);
		before = t;
		st = save(&sample_state, &s);
		patch(&st, rows[i].what, rows[i].nwhat, rows[i].with, rows[i].nwith);
		r = load(&sample_state, &t, &st, &e);
		if (r != rows[i].code || !strstr(e.msg, rows[i].text))
			fail_msg("row %zu: %d \"%s\", not %d \"%s\"", i, r, e.msg, rows[i].code,
				rows[i].text);
		/* all or nothing */
		assert_memory_equal(&t, &before, sizeof(t));
		free(st.p);
		drop(&s);
		drop(&t);
	}
}

struct late {
	uint32_t n;
};
static const struct state_field late_fields[] = {STATE_U32(struct late, n, 1), STATE_END};

/* An object that earlier programs did not have keeps what it is; any other one has to be there. */
static void younger_object_may_be_absent(void **state)
{
	struct state_desc desc = {"late", 1, late_fields, .younger = true};
	struct sample s, t;
	struct late late = {7};
	struct stream st;
	struct err e = {0};
	struct state_obj objs[] = {{"late", &desc, &late}, {"s0", &sample_state, &t}};

	fill(&s);
	memset(&t, 0, sizeof(t));
	st = save(&sample_state, &s);
	assert_int_equal(state_load(objs, 2, st.p, st.len, &e), 0);
	assert_int_equal(late.n, 7);
	drop(&t);
	memset(&t, 0, sizeof(t));
	desc.younger = false;
	assert_int_equal(state_load(objs, 2, st.p, st.len, &e), -EINVAL);
	assert_non_null(strstr(err_msg(&e), "no object late"));
	free(st.p);
	drop(&s);
	drop(&t);
}

static void unknown_optional_is_skipped(void **state)
{
	struct sample s, t = {0};
	struct stream st;
	struct err e;
	char deep[40] = "\x65"
			"hinx?";

	fill(&s);
	st = save(&sample_state, &s);
	PATCH(&st, "\x65hint?\x18\x63", "\x65hinx?\x82\xa1\x01\x82\x02\x03\xf6");
	assert_int_equal(load(&sample_state, &t, &st, &e), 0);
	assert_int_equal(t.hint, 9);
	drop(&t);
	free(st.p);
	/* but not to any depth */
	st = save(&sample_state, &s);
	memset(deep + 6, 0x81, 30);
	patch(&st, "\x65hint?\x18\x63", 8, deep, 37);
	assert_int_equal(load(&sample_state, &t, &st, &e), -EBADMSG);
	assert_non_null(strstr(e.msg, "nested deeper"));
	free(st.p);
	drop(&s);
}

static void every_cut_and_flip_is_refused(void **state)
{
	struct sample s, t, before;
	struct stream st;
	struct err e;

	fill(&s);
	fill(&t);
	before = t;
	st = save(&sample_state, &s);
	for (size_t n = 0; n < st.len; n++) {
		struct stream cut = {st.p, n};

		assert_int_equal(load(&sample_state, &t, &cut, &e), -EBADMSG);
		st.p[n] ^= 1;
		assert_int_not_equal(load(&sample_state, &t, &st, &e), 0);
		st.p[n] ^= 1;
	}
	/* cuts and flips behind a digest that is right: no crash, and nothing half applied */
	for (size_t n = 40; n < st.len; n++) {
		struct stream cut = {malloc(n), n};

		memcpy(cut.p, st.p, n);
		redigest(&cut);
		assert_int_not_equal(load(&sample_state, &t, &cut, &e), 0);
		free(cut.p);
	}
	assert_memory_equal(&t, &before, sizeof(t));
	free(st.p);
	drop(&s);
	drop(&t);
}

static void failing_post_load_fails_the_load(void **state)
{
	struct sample s, t = {0};
	struct stream st;
	struct err e;

	fill(&s);
	s.u8 = 0xee;
	st = save(&sample_state, &s);
	assert_int_equal(load(&sample_state, &t, &st, &e), -EINVAL);
	assert_string_equal(e.msg, "load state: s0: u8 is 0xee");
	free(st.p);
	drop(&s);
	drop(&t);
}

static void save_refuses_what_would_not_load(void **state)
{
	struct sample s;
	struct state_obj o = {"s0", &sample_state, &s};
	uint8_t *p;
	size_t len;
	struct err e = {0};

	fill(&s);
	s.blob = realloc(s.blob, 65);
	s.blob_len = 65;
	assert_int_equal(state_save(&o, 1, &p, &len, &e), -EINVAL);
	assert_string_equal(e.msg, "state of s0: blob: 65 bytes, at most 64 fit");
	drop(&s);
}

static void bad_tables_are_refused(void **state)
{
	static const struct state_field twice[] = {
		STATE_U8(struct sample, u8, 1), STATE_U8(struct sample, u8, 1), STATE_END};
	static const struct state_field late[] = {STATE_U8(struct sample, u8, 2), STATE_END};
	struct state_field self[] = {
		STATE_STRUCT(struct sample, one, NULL, struct sample_queue, 1), STATE_END};
	struct state_desc d = {"bad", 1, twice};
	struct err e = {0};

	assert_int_equal(state_desc_check(&d, &e), -EINVAL);
	assert_string_equal(e.msg, "state table bad: u8 is described twice");
	d.fields = late;
	assert_int_equal(state_desc_check(&d, &e), -EINVAL);
	d.fields = self;
	assert_int_equal(state_desc_check(&d, &e), -EINVAL);
	self[0].sub = &d;
	assert_int_equal(state_desc_check(&d, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "nested deeper"));
	assert_int_equal(state_desc_check(&sample_state, &e), 0);
}

static void diff_names_the_field(void **state)
{
	struct sample a, b;
	char where[64];

#define DIFF(change, text) \
	do { \
		fill(&a); \
		fill(&b); \
		change; \
		assert_ptr_equal(state_diff(&sample_state, &a, &b, where, sizeof(where)), where); \
		assert_string_equal(where, text); \
		drop(&a); \
		drop(&b); \
	} while (0)
	DIFF(b.u16 = 0, "u16");
	DIFF(b.u32s[1][0] = 0, "u32s[2]");
	DIFF(b.bytes[4] = 0, "bytes[4]");
	DIFF(b.text[6] = 0, "text");
	DIFF(b.one.size = 0, "one.size");
	DIFF(b.queues[1].ready = false, "queues[1].ready");
	DIFF(b.reqs[2].data[1] = 1, "reqs[2].data[1]");
	DIFF(b.blob[39] = 1, "blob[39]");
	DIFF(b.hint = 1, "hint");
}

static void json_shows_every_field(void **state)
{
	struct sample s;
	struct state_obj o = {"s0", &sample_state, &s};
	json_t *j, *f;

	fill(&s);
	memcpy(s.text, "\xff", 2);
	j = state_json(&o, 1);
	f = json_object_get(j, "s0");
	assert_int_equal(json_object_size(f), 21);
	assert_int_equal(json_integer_value(json_object_get(f, "u32")), 0x89abcdef);
	assert_string_equal(json_string_value(json_object_get(f, "u64")), "0xfedcba9876543210");
	assert_string_equal(json_string_value(json_object_get(f, "i64")), "-9223372036854775808");
	assert_int_equal(json_integer_value(json_object_get(f, "i32")), -5);
	assert_true(json_is_true(json_object_get(f, "b")));
	assert_string_equal(json_string_value(json_object_get(f, "bytes")), "010200ff04");
	assert_string_equal(json_string_value(json_object_get(f, "text")), "ff");
	assert_int_equal(json_array_size(json_object_get(f, "u32s")), 4);
	assert_true(json_is_object(json_object_get(f, "one")));
	assert_int_equal(json_array_size(json_object_get(f, "queues")), 2);
	assert_int_equal(json_array_size(json_object_get(f, "reqs")), 3);
	assert_int_equal(strlen(json_string_value(json_object_get(f, "blob"))), 80);
	json_decref(j);
	drop(&s);
}

static int write_stream(const struct state_desc *d, const char *path)
{
	struct sample s;
	struct stream st;
	FILE *f = fopen(path, "wb");

	fill(&s);
	st = save(d, &s);
	return !f || fwrite(st.p, 1, st.len, f) != st.len || fclose(f);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(round_trip),
		cmocka_unit_test(many_objects),
		cmocka_unit_test(old_version_takes_defaults),
		cmocka_unit_test(newer_version_is_refused),
		cmocka_unit_test(each_corruption_is_named),
		cmocka_unit_test(younger_object_may_be_absent),
		cmocka_unit_test(unknown_optional_is_skipped),
		cmocka_unit_test(every_cut_and_flip_is_refused),
		cmocka_unit_test(failing_post_load_fails_the_load),
		cmocka_unit_test(save_refuses_what_would_not_load),
		cmocka_unit_test(bad_tables_are_refused),
		cmocka_unit_test(diff_names_the_field),
		cmocka_unit_test(json_shows_every_field),
	};

	if (argc == 3 && !strcmp(argv[1], "--write-fixture"))
		return write_stream(&sample_v1, argv[2]);
	if (argc == 3 && !strcmp(argv[1], "--write-seed"))
		return write_stream(&sample_state, argv[2]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
