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
#include "base/options.h"
#include "base/strbuf.h"
#include "base/util.h"

struct part {
	char *file;
	unsigned queues;
	bool ro;
	bool direct;
};

struct opts {
	unsigned smp;
	uint64_t memory;
	uint64_t seed;
	bool has_seed;
	bool force;
	bool quiet;
	bool box;
	int mode;
	char *name, *like, *tune;
	struct part *parts;
	unsigned nparts;
};

struct all {
	int other;
	struct opts o;
};

static int check_name(const char *text, struct err *e)
{
	return strchr(text, ' ') ? err_set(e, -EINVAL, "\"%s\" has a blank", text) : 0;
}

static const char *const modes[] = {"host", "model", NULL};
static const struct opt part_opts[] = {
	{"file", 0, "file", OPT_TEXT, OPT_AT(struct part, file), .arg = "FILE", .help = "a file"},
	{"queues", 0, "queues", OPT_UINT, OPT_AT(struct part, queues), .arg = "N", .min = 1,
		.max = 16, .dflt = "4", .help = "how many"},
	{"readonly", 0, "readonly", OPT_FLAG, OPT_AT(struct part, ro), .help = "no writes"},
	{"direct", 0, "direct", OPT_BOOL, OPT_AT(struct part, direct), .help = "direct"},
	OPT_DONE,
};
static const struct opt opts[] = {
	{"smp", 's', "smp", OPT_UINT, OPT_AT(struct opts, smp), .arg = "N", .min = 1, .max = 128,
		.dflt = "1", .help = "number of vCPUs"},
	{"memory", 'm', "memory", OPT_SIZE, OPT_AT(struct opts, memory), .arg = "SIZE",
		.min = 1 << 20, .dflt = "1G", .help = "memory"},
	{"seed", 0, "seed", OPT_U64, OPT_AT(struct opts, seed),
		.set_offset = offsetof(struct opts, has_seed), .arg = "N", .help = "seed"},
	{"force", 'f', NULL, OPT_FLAG, OPT_AT(struct opts, force), .help = "force it"},
	{"quiet", 'q', NULL, OPT_FLAG, OPT_AT(struct opts, quiet), .help = "say nothing"},
	{"sandbox", 0, "sandbox", OPT_BOOL, OPT_AT(struct opts, box), .dflt = "on",
		.help = "sandbox"},
	{"clock", 0, "clock", OPT_ENUM, OPT_AT(struct opts, mode), .values = modes,
		.help = "whose clock"},
	{"name", 'n', "name", OPT_TEXT, OPT_AT(struct opts, name), .check = check_name,
		.arg = "NAME", .help = "its name"},
	{"like", 0, NULL, OPT_TEXT, OPT_AT(struct opts, like), .arg = "NAME",
		.names = "names; echo one two", .help = "as another one"},
	{"tune", 'o', NULL, OPT_TEXT, OPT_AT(struct opts, tune), .arg = "K=V,...", .joins = true,
		.help = "tuning"},
	{"part", 0, "parts", OPT_LIST, OPT_LIST_AT(struct opts, parts, nparts), .max = 3,
		.sub = part_opts, .arg = "file=FILE[,queues=N]", .help = ".parts\\"},
	OPT_DONE,
};
static const struct opt_group groups[] = {{"Machine", opts, offsetof(struct all, o)}, {0}};
static const struct command cmd = {.program = "lodge",
	.verb = "run",
	.args = "[IMAGE]",
	.max_args = 1,
	.summary = "run a machine",
	.text = "First.\n\nSecond.",
	.groups = groups};

static int parse(struct all *a, struct args *args, struct err *e, int argc, char **argv)
{
	*a = (struct all){0};
	*e = (struct err){0};
	assert_int_equal(command_defaults(&cmd, a, e), 0);
	return command_parse(&cmd, a, argc, argv, args, e);
}
#define WORDS(...) ((char *[]){"run", __VA_ARGS__, NULL})
#define PARSE(...) parse(&a, &args, &e, ARRAY_SIZE(WORDS(__VA_ARGS__)) - 1, WORDS(__VA_ARGS__))

static void tables_are_well_formed(void **state)
{
	struct err e = {0};
	static const struct opt wrong[] = {
		{"smp", .type = OPT_U64, OPT_AT(struct opts, smp), .arg = "N", .help = "x"},
		OPT_DONE};
	static const struct opt dflt[] = {{"smp", .type = OPT_UINT, OPT_AT(struct opts, smp),
						  .arg = "N", .help = "x", .min = 1, .dflt = "0"},
		OPT_DONE};

	assert_int_equal(command_check(&cmd, &e), 0);
	assert_int_equal(options_check(wrong, &e), -EINVAL);
	assert_int_equal(options_check(dflt, &e), -EINVAL);
}

static void every_way_to_write_a_flag(void **state)
{
	struct args args;
	struct err e;
	struct all a;

	assert_int_equal(PARSE("--smp", "4", "img", "--memory=2G", "-fqn", "x", "--sandbox", "off",
				 "--clock=model", "--seed", "0x10"),
		0);
	assert_int_equal(a.o.smp, 4);
	assert_int_equal(a.o.memory, 2 * GiB);
	assert_true(a.o.force && a.o.quiet && a.o.has_seed && !a.o.box);
	assert_int_equal(a.o.mode, 1);
	assert_int_equal(a.o.seed, 16);
	assert_string_equal(a.o.name, "x");
	assert_int_equal(args.n, 1);
	assert_string_equal(args.v[0], "img");
	command_free(&cmd, &a);
	assert_int_equal(PARSE("-m512M", "-s", "2", "--", "-x"), 0);
	assert_int_equal(a.o.memory, 512 * MiB);
	assert_int_equal(a.o.smp, 2);
	assert_string_equal(args.v[0], "-x");
	assert_true(a.o.box && !a.o.has_seed);
	assert_int_equal(PARSE("--smp", "1", "--smp", "3", "-"), 0);
	assert_int_equal(a.o.smp, 3);
	assert_string_equal(args.v[0], "-");
	assert_int_equal(PARSE("--bogus-after", "--help"), -EINVAL);
	assert_int_equal(PARSE("a", "b", "c", "--help"), 0);
	assert_true(args.help);
}

static void lists_append(void **state)
{
	struct args args;
	struct err e;
	struct all a;

	assert_int_equal(
		PARSE("--part", "file=a,,b=c,readonly", "--part", "file=d,queues=2,direct"), 0);
	assert_int_equal(a.o.nparts, 2);
	assert_string_equal(a.o.parts[0].file, "a,b=c");
	assert_true(a.o.parts[0].ro && !a.o.parts[1].ro && a.o.parts[1].direct);
	assert_int_equal(a.o.parts[0].queues, 4);
	assert_int_equal(a.o.parts[1].queues, 2);
	command_free(&cmd, &a);
	assert_null(a.o.parts);
	assert_int_equal(PARSE("-o", "a=1,b=2", "--tune=c=3", "--name", "x", "--name", "y"), 0);
	assert_string_equal(a.o.tune, "a=1,b=2,c=3");
	assert_string_equal(a.o.name, "y");
	command_free(&cmd, &a);
}

static void each_mistake_names_the_remedy(void **state)
{
	struct args args;
	struct err e;
	struct all a;

#define BAD(text, ...) \
	do { \
		assert_int_equal(PARSE(__VA_ARGS__), -EINVAL); \
		assert_string_equal(e.msg, text); \
		command_free(&cmd, &a); \
	} while (0)
	BAD("unknown flag --memroy: did you mean --memory?", "--memroy", "1G");
	BAD("unknown flag --hepl: did you mean --help?", "--hepl");
	BAD("unknown flag --xyzzy: lodge run --help lists them", "--xyzzy=1");
	BAD("unknown flag -x: lodge run --help lists them", "-x");
	BAD("unknown flag -x: lodge run --help lists them", "-fx");
	BAD("--smp needs a value: --smp N", "--smp");
	BAD("-n needs a value: -n NAME", "-fn");
	BAD("--force takes no value", "--force=yes");
	BAD("--smp: 0 is too small: give 1 to 128", "--smp", "0");
	BAD("--smp: 129 is too large: give 1 to 128", "--smp", "129");
	BAD("--smp: \"four\" is not a number", "-sfour");
	BAD("--memory: \"3\" has no unit: write 3M or 3G (or 3B for bytes)", "--memory", "3");
	BAD("--memory: 0 is too small: give at least 1M", "-m", "0");
	BAD("--clock: \"now\" is not known: give one of host, model", "--clock=now");
	BAD("--sandbox: \"maybe\" is neither on nor off", "--sandbox", "maybe");
	BAD("--name: \"a b\" has a blank", "--name", "a b");
	BAD("--part: unknown part \"fiel\": did you mean \"file\"?", "--part", "fiel=x");
	BAD("--part: file needs a value: file=FILE", "--part", "file");
	BAD("--part: queues: 17 is too large: give 1 to 16", "--part", "queues=17");
	BAD("--part: unknown part \"\"; there is: file, queues, readonly, direct", "--part", "");
	BAD("--part: more than 3 are not possible", "--part=file=x", "--part=file=x",
		"--part=file=x", "--part=file=x");
	BAD("\"b\" is one argument too many; usage: lodge run [OPTION...] [IMAGE]", "a", "b");
	BAD("\"64M\" is one argument too many: write --memory 64M; usage: lodge run [OPTION...] "
	    "[IMAGE]",
		"a", "64M");
	BAD("\"64\" is one argument too many: write --memory SIZE; usage: lodge run [OPTION...] "
	    "[IMAGE]",
		"a", "64");
	BAD("unknown flag --image: it is an argument; usage: lodge run [OPTION...] [IMAGE]",
		"--image=a");
	BAD("unknown flag --imag: lodge run --help lists them", "--imag");
}

static void peek_sets_nothing(void **state)
{
	char *argv[] = {
		"run", "--name", "--smp", "-fm", "1G", "--memory=2G", "--", "--memory=3G", NULL};

	assert_string_equal(command_peek(&cmd, 8, argv, "memory"), "2G");
	assert_string_equal(command_peek(&cmd, 8, argv, "name"), "--smp");
	assert_null(command_peek(&cmd, 8, argv, "smp"));
}

static void values_print_as_they_are_read(void **state)
{
	struct args args;
	struct err e;
	struct all a;

	assert_int_equal(PARSE("--memory=1536M", "--clock=model", "--name", "n", "--seed=0"), 0);
	for (const struct opt *o = opts; o->type != OPT_END; o++) {
		cleanup(strbuf_free) struct strbuf sb = {0};
		bool changed = !strcmp(o->flag, "memory") || !strcmp(o->flag, "clock") ||
			       !strcmp(o->flag, "name") || !strcmp(o->flag, "seed");

		assert_int_equal(options_is_default(o, &a.o), !changed);
		if (o->type == OPT_LIST)
			continue;
		options_get(o, &a.o, &sb);
		if (sb.len)
			assert_int_equal(options_set(o, &a.o, strbuf_text(&sb), &e), 0);
	}
	command_free(&cmd, &a);
}

static char *capture(void (*print)(FILE *))
{
	char *text;
	size_t len;
	FILE *f = open_memstream(&text, &len);

	print(f);
	fclose(f);
	return text;
}

static void print_help(FILE *f)
{
	command_print_help(&cmd, f);
}

static void print_man(FILE *f)
{
	static const struct man_page page = {
		"lodge", "1", "today", "machines", ".dot\n\nNext-one", NULL};
	const struct command *cmds[] = {&cmd};

	commands_print_man(&page, cmds, 1, f);
}

static void print_bash(FILE *f)
{
	static const struct command pull = {
		.program = "lodge", .verb = "image pull", .summary = "pull"};
	const struct command *cmds[] = {&cmd, &pull};

	commands_print_completion("lodge", cmds, 2, f);
}

static void help_and_man_show_every_flag(void **state)
{
	cleanup(free_ptr) char *help = capture(print_help), *man = capture(print_man);

	for (const struct opt *o = opts; o->type != OPT_END; o++) {
		char flag[40];

		snprintf(flag, sizeof(flag), "--%s", o->flag);
		assert_non_null(strstr(help, flag));
		snprintf(flag, sizeof(flag), "\\-\\-%s", o->flag);
		assert_non_null(strstr(man, flag));
	}
	assert_non_null(strstr(help, "Usage: lodge run [OPTION...] [IMAGE]"));
	assert_non_null(strstr(help, "  -m, --memory SIZE           memory (default 1G)\n"));
	assert_non_null(strstr(help, "--clock host|model"));
	assert_non_null(strstr(man, "\n\\&.dot\n.PP\nNext\\-one"));
	assert_non_null(strstr(man, "\n\\&.parts\\e"));
}

/* Runs the script in bash and returns what COMP_WORDS complete to, in one line. */
static char *complete(const char *words, int cword)
{
	cleanup(free_ptr) char *script = capture(print_bash);
	char path[] = "/tmp/lodge-test-XXXXXX", cmdline[500];
	static char line[500];
	int fd = mkstemp(path);
	FILE *p;

	assert_int_equal(write(fd, script, strlen(script)), strlen(script));
	close(fd);
	snprintf(cmdline, sizeof(cmdline),
		"bash -c 'source %s; COMP_WORDS=(%s); COMP_CWORD=%d; _complete_lodge; echo "
		"${COMPREPLY[*]}'",
		path, words, cword);
	p = popen(cmdline, "r");
	line[0] = 0;
	if (!fgets(line, sizeof(line), p))
		line[0] = 0;
	assert_int_equal(pclose(p), 0);
	unlink(path);
	return line;
}

static void bash_completes(void **state)
{
	assert_string_equal(complete("lodge \"\"", 1), "image run\n");
	assert_string_equal(complete("lodge im", 1), "image\n");
	assert_string_equal(complete("lodge image \"\"", 2), "pull\n");
	assert_string_equal(complete("lodge run --me", 2), "--memory\n");
	assert_string_equal(complete("lodge run --clock \"\"", 3), "host model\n");
	assert_string_equal(complete("lodge run --sandbox o", 3), "on off\n");
	assert_string_equal(complete("lodge image pull -", 3), "--help\n");
	assert_string_equal(complete("lodge run --like t", 3), "two\n");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(tables_are_well_formed),
		cmocka_unit_test(every_way_to_write_a_flag),
		cmocka_unit_test(lists_append),
		cmocka_unit_test(each_mistake_names_the_remedy),
		cmocka_unit_test(peek_sets_nothing),
		cmocka_unit_test(values_print_as_they_are_read),
		cmocka_unit_test(help_and_man_show_every_flag),
		cmocka_unit_test(bash_completes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
