#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/util.h"
#include "image/apt/aptsrc.h"
#include "image/apt/deb822.h"
#include "image/apt/pkgindex.h"

static void paragraphs_and_continuations(void **state)
{
	static const char text[] =
		"# note\nPackage: a\nDescription: x\n more\n .\n\n\n\nPackage: b\nEmpty:\n";
	struct deb822 d;
	struct slice v;

	deb822_init(&d, "t", text, sizeof(text) - 1);
	assert_int_equal(deb822_next(&d, NULL), 1);
	assert_true(slice_is(deb822_get(&d, "PACKAGE"), "a"));
	v = deb822_get(&d, "Description");
	assert_true(slice_is(v, "x\n more\n ."));
	assert_null(deb822_get(&d, "Pack").p);
	assert_int_equal(deb822_next(&d, NULL), 1);
	assert_true(slice_is(deb822_get(&d, "Package"), "b"));
	v = deb822_get(&d, "Empty");
	assert_non_null(v.p);
	assert_int_equal(v.n, 0);
	assert_int_equal(deb822_next(&d, NULL), 0);
}

static void bad_lines_are_named(void **state)
{
	static const char *const bad[] = {
		" starts with a blank\n", "A: 1\nno colon\n", "A: 1\n: 2\n"};
	struct deb822 d;
	struct err e = {0};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		deb822_init(&d, "t", bad[i], strlen(bad[i]));
		assert_int_equal(deb822_next(&d, &e), -EINVAL);
		assert_non_null(strstr(err_msg(&e), i ? "t line 2" : "t line 1"));
	}
}

/* Cases of Policy 5.6.12 and of dpkg's history, each with what dpkg says. */
static const struct {
	const char *a, *b;
	int want;
} versions[] = {
	{"1.0", "1.0", 0},
	{"1.0-1", "1.0-2", -1},
	{"1.0", "1.0-0", 0},
	{"1.0", "1.0-1", -1},
	{"1:1.0", "2.0", 1},
	{"0:1.0", "1.0", 0},
	{"1.0~rc1", "1.0", -1},
	{"1.0~~", "1.0~~a", -1},
	{"1.0~~a", "1.0~", -1},
	{"1.0~", "1.0", -1},
	{"1.0a", "1.0+", -1},
	{"1.0+b", "1.0a", 1},
	{"1.10", "1.9", 1},
	{"1.010", "1.10", 0},
	{"a", "1", 1},
	{"1.0-1+b2", "1.0-1+b10", -1},
	{"2.41-12+deb13u4", "2.41-12", 1},
	{"1.2-3-4", "1.2-3", 1},
	{"6.12.107-1", "6.12.9-1", 1},
	{"00", "0", 0},
	{"1.0.", "1.0", 1},
	{"257.13-1~deb13u1", "257.13-1", -1},
	{"1:4.16.0-2+really2.41.5-0+deb13u1", "1:4.16.0-2", 1},
	{"9999999999999999999999", "1", 1},
};

static int sign(int v)
{
	return (v > 0) - (v < 0);
}

static void versions_compare_as_in_policy(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(versions); i++) {
		struct slice a = slice_of(versions[i].a), b = slice_of(versions[i].b);

		if (sign(debver_cmp(a, b)) != versions[i].want ||
			sign(debver_cmp(b, a)) != -versions[i].want)
			fail_msg("%s and %s: %d, %d", versions[i].a, versions[i].b,
				debver_cmp(a, b), debver_cmp(b, a));
	}
}

/* dpkg itself as the witness. */
static void dpkg_agrees(void **state)
{
	char cmd[256];

	if (system("command -v dpkg >/dev/null 2>&1")) {
		print_message("no dpkg on this host: the comparison with it is skipped\n");
		skip();
	}
	for (size_t i = 0; i < ARRAY_SIZE(versions); i++) {
		const char *op = versions[i].want < 0 ? "lt" : versions[i].want ? "gt" : "eq";
		int st;

		snprintf(cmd, sizeof(cmd), "dpkg --compare-versions '%s' %s '%s' 2>/dev/null",
			versions[i].a, op, versions[i].b);
		st = system(cmd);
		if (st)
			fail_msg("dpkg does not say %s %s %s", versions[i].a, op, versions[i].b);
	}
}

static void relations(void **state)
{
	struct slice s = slice_of("a (>= 1:2-3) | b:any ,c(<<4), d (= 5) ");
	struct debrel r;

	assert_int_equal(debrel_next(&s, &r), 1);
	assert_true(slice_is(r.name, "a") && r.op == DEBREL_GE && r.more);
	assert_true(slice_is(r.version, "1:2-3"));
	assert_int_equal(debrel_next(&s, &r), 1);
	assert_true(slice_is(r.name, "b") && r.op == DEBREL_ANY && !r.more);
	assert_int_equal(debrel_next(&s, &r), 1);
	assert_true(slice_is(r.name, "c") && r.op == DEBREL_LT);
	assert_true(debrel_holds(&r, slice_of("3.9")) && !debrel_holds(&r, slice_of("4")));
	assert_int_equal(debrel_next(&s, &r), 1);
	assert_true(debrel_holds(&r, slice_of("5")) && !debrel_holds(&r, slice_of("5-1")));
	assert_int_equal(debrel_next(&s, &r), 0);
	s = slice_of("a (!! 1)");
	assert_int_equal(debrel_next(&s, &r), -EINVAL);
	s = slice_of("a (>= 1");
	assert_int_equal(debrel_next(&s, &r), -EINVAL);
	s = slice_of("../x");
	assert_int_equal(debrel_next(&s, &r), -EINVAL);
}

static void sources_one_line(void **state)
{
	static const char text[] =
		"# deb http://commented.example/debian trixie main\n"
		"deb https://packages.example/apt cloud-sdk main\n"
		"deb-src http://src.example/debian trixie main\n"
		"deb http://security.example/debian-security trixie-security main\n"
		"deb [arch=amd64 signed-by=/k/deb.gpg] http://mirror.example/debian/ bookworm main "
		"contrib # x\n"
		"deb http://second.example/debian bookworm main\n";
	cleanup(apt_mirror_free) struct apt_mirror m = {0};

	apt_mirror_parse(&m, text, sizeof(text) - 1, true);
	assert_string_equal(m.uri, "http://mirror.example/debian");
	assert_string_equal(m.keyring, "/k/deb.gpg");
	assert_string_equal(m.security, "http://security.example/debian-security");
}

static void sources_deb822(void **state)
{
	static const char text[] =
		"Types: deb\nURIs: http://off.example/debian\nSuites: trixie\nComponents: "
		"main\nEnabled: no\n\n"
		"Types: deb\nURIs: ftp://other.example/debian\nSuites: trixie\nComponents: main\n\n"
		"Types: deb deb-src\n# comment\nURIs: http://a.example/debian\n"
		"Suites: bookworm\n# inside\n bookworm-updates\nComponents: contrib "
		"main\nSigned-By: /k.gpg\n";
	cleanup(apt_mirror_free) struct apt_mirror m = {0};

	apt_mirror_parse(&m, text, sizeof(text) - 1, false);
	assert_string_equal(m.uri, "http://a.example/debian");
	assert_string_equal(m.keyring, "/k.gpg");
	assert_null(m.security);
}

static void no_sources_say_what_to_do(void **state)
{
	cleanup(apt_mirror_free) struct apt_mirror m = {0};
	struct err e = {0};

	assert_int_equal(apt_mirror_find(&m, "/nonexistent", &e), -ENOENT);
	assert_non_null(strstr(err_msg(&e), "--mirror"));
}

static const char packages[] =
	"Package: base\nVersion: 1\nEssential: yes\nPriority: required\nDepends: lib (>= 2), mta | "
	"real\n\n"
	"Package: lib\nVersion: 1\n\nPackage: lib\nVersion: 2\n\nPackage: lib\nVersion: 1.5\n\n"
	"Package: real\nVersion: 1\nProvides: mta\n\n"
	"Package: another\nVersion: 1\nProvides: mta, ver (= 3)\n\n"
	"Package: wantver\nVersion: 1\nDepends: ver (>= 2)\n\n"
	"Package: wantver4\nVersion: 1\nDepends: ver (>= 4)\n\n"
	"Package: extra\nVersion: 1\nPriority: important\nPre-Depends: lib\n\n"
	"Package: enemy\nVersion: 1\nConflicts: lib (<< 3)\n\n"
	"Package: selfish\nVersion: 1\nProvides: thing\nConflicts: thing\n\n"
	"Package: broken\nVersion: 1\nDepends: nothing-has-this\n\n"
	"Package: ring-a\nVersion: 1\nDepends: ring-b\n\nPackage: ring-b\nVersion: 1\nDepends: "
	"ring-a\n";

static int resolve(const char *name, bool priorities, const char *without, struct pkgset *s,
	struct pkgindex *ix, struct err *e)
{
	const char *names[] = {name, NULL}, *no[] = {without, NULL};
	struct pkgwant w = {names, no, priorities, priorities};

	assert_int_equal(pkgindex_parse(ix, strdup(packages), sizeof(packages) - 1, e), 0);
	return pkgset_resolve(s, ix, &w, e);
}

static void expect_set(const char *name, bool priorities, const char *without, const char *want)
{
	cleanup(pkgindex_free) struct pkgindex ix = {0};
	cleanup(pkgset_free) struct pkgset s = {0};
	struct err e = {0};
	char got[256] = "";

	if (resolve(name, priorities, without, &s, &ix, &e))
		fail_msg("%s", err_msg(&e));
	for (size_t i = 0; i < s.n; i++)
		snprintf(got + strlen(got), sizeof(got) - strlen(got), "%s" SLICE_FMT "=" SLICE_FMT,
			i ? " " : "", SLICE_ARG(s.v[i]->name), SLICE_ARG(s.v[i]->version));
	assert_string_equal(got, want);
}

static void expect_failure(const char *name, int code, const char *part)
{
	cleanup(pkgindex_free) struct pkgindex ix = {0};
	cleanup(pkgset_free) struct pkgset s = {0};
	struct err e = {0};

	assert_int_equal(resolve(name, false, NULL, &s, &ix, &e), code);
	assert_non_null(strstr(err_msg(&e), part));
	assert_null(s.v);
}

static void dependencies_are_resolved(void **state)
{
	expect_set("base", false, NULL, "another=1 base=1 lib=2");
	expect_set("real", true, "extra", "base=1 lib=2 real=1");
	expect_set("real", true, NULL, "base=1 extra=1 lib=2 real=1");
	expect_set("wantver", false, NULL, "another=1 wantver=1");
	expect_set("ring-a", false, NULL, "ring-a=1 ring-b=1");
	expect_set("selfish", false, NULL, "selfish=1");
}

static void what_cannot_be_had_is_named(void **state)
{
	expect_failure("broken", -ENOPKG, "nothing-has-this");
	expect_failure("wantver4", -ENOPKG, "ver (>= 4)");
	expect_failure("no-such-package", -ENOENT, "no-such-package");
}

static void conflicts_are_found(void **state)
{
	cleanup(pkgindex_free) struct pkgindex ix = {0};
	cleanup(pkgset_free) struct pkgset s = {0};
	struct err e = {0};

	assert_int_equal(resolve("enemy", true, NULL, &s, &ix, &e), -EEXIST);
	assert_non_null(strstr(err_msg(&e), "enemy"));
}

static void names_that_are_paths_are_refused(void **state)
{
	cleanup(pkgindex_free) struct pkgindex ix = {0};
	static const char text[] = "Package: ../../etc\nVersion: 1\n";
	struct err e = {0};

	assert_int_equal(pkgindex_parse(&ix, strdup(text), sizeof(text) - 1, &e), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(paragraphs_and_continuations),
		cmocka_unit_test(bad_lines_are_named),
		cmocka_unit_test(versions_compare_as_in_policy),
		cmocka_unit_test(dpkg_agrees),
		cmocka_unit_test(relations),
		cmocka_unit_test(sources_one_line),
		cmocka_unit_test(sources_deb822),
		cmocka_unit_test(no_sources_say_what_to_do),
		cmocka_unit_test(dependencies_are_resolved),
		cmocka_unit_test(what_cannot_be_had_is_named),
		cmocka_unit_test(conflicts_are_found),
		cmocka_unit_test(names_that_are_paths_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
