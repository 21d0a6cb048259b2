/* The bar fits into one line of any terminal, and what it is about cannot speak to the terminal. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pty.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/util.h"
#include "cli/ui/progress.h"

#define BEGIN "\r\033[K" /* of each drawing */

/* What a terminal of so many columns gets. */
static const char *drawn(unsigned columns, const char *doing, const char *text)
{
	struct winsize w = {.ws_row = 24, .ws_col = (unsigned short)columns};
	struct progress p = {0};
	static char out[4096];
	int master, slave, was = dup(STDERR_FILENO);
	size_t len = 0;
	ssize_t n;

	assert_int_equal(openpty(&master, &slave, NULL, NULL, &w), 0);
	fflush(stderr);
	dup2(slave, STDERR_FILENO);
	progress_begin(&p, 0);
	assert_true(p.tty);
	progress_bar(&p, doing, 0.5, "%s", text);
	fflush(stderr);
	dup2(was, STDERR_FILENO);
	close(was);
	close(slave);
	while ((n = read(master, out + len, sizeof(out) - 1 - len)) >
		0) /* until it is seen to be closed */
		len += (size_t)n;
	close(master);
	out[len] = 0;
	assert_memory_equal(out, BEGIN, strlen(BEGIN));
	return out + strlen(BEGIN);
}

static size_t columns_of(const char *text)
{
	size_t n = 0;

	for (; *text; text++)
		n += (*text & 0xc0) != 0x80;
	return n;
}

static void one_line(void **state)
{
	static const char *const names[] = {NULL, "fetching",
		"a name of a file that is rather long, as they are",
		"Gr\xc3\xbc\xc3\x9f"
		"e aus dem \xe6\xb1\x9f\xe6\x88\xb8"};
	static const char text[] = "1234.5 / 99999.9 MiB  123.4 MiB/s; the guest writes much";

	for (unsigned i = 0; i < ARRAY_SIZE(names); i++)
		for (unsigned c = 1; c < 200; c++) {
			const char *out = drawn(c, names[i], text);

			if (columns_of(out) >= c)
				fail_msg("%u columns: %s", c, out);
			if (c >= 190 && (!strstr(out, text) ||
						!strstr(out, "[###############               ]")))
				fail_msg("not all of it on a wide one: %s", out);
		}
}

static void nothing_else(void **state)
{
	assert_string_equal(drawn(80, "a\033[2Jb\nc\xff", "d\r\x9b"),
		"a?[2Jb?c?                [###############               ] d??");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_line),
		cmocka_unit_test(nothing_else),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
