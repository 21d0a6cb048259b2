/* test_control.c: docs/control.md names each method as the table in control.c does. */
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "base/err.h"
#include "base/fsutil.h"
#include "base/strbuf.h"
#include "base/util.h"
#include "vm/control.h"

#define HEAD "| method | parameters | what it does |\n| --- | --- | --- |\n"

/* The table as it ought to be; a `|` inside a cell would end it. */
static void rows(struct strbuf *out)
{
	json_t *all = control_methods(), *m;
	const char *name;

	json_object_foreach(all, name, m)
	{
		const char *params = json_string_value(json_object_get(m, "params"));
		const char *help = json_string_value(json_object_get(m, "help"));

		assert_null(strchr(params, '|'));
		assert_null(strchr(help, '|'));
		strbuf_addf(out, "| `%s` | %s%s%s | %s |\n", name, strcmp(params, "{}") ? "`" : "",
			strcmp(params, "{}") ? params : "", strcmp(params, "{}") ? "`" : "", help);
	}
	json_decref(all);
}

static void the_page_has_every_method(void **state)
{
	cleanup(strbuf_free) struct strbuf want = {0};
	cleanup(free_ptr) char *page = NULL;
	struct err e = {0};
	char *table, *end;

	rows(&want);
	if (fs_read_file(LODGE_DOCS "/control.md", 1 << 20, &page, NULL, &e))
		fail_msg("%s", err_msg(&e));
	table = strstr(page, HEAD);
	assert_non_null(table);
	table += strlen(HEAD);
	end = strstr(table, "\n\n");
	assert_non_null(end);
	end[1] = '\0';
	if (strcmp(table, strbuf_text(&want))) {
		puts(strbuf_text(&want));
		fail_msg("docs/control.md, \"Methods\": the table has to be as above");
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {cmocka_unit_test(the_page_has_every_method)};

	return cmocka_run_group_tests_name("control", tests, NULL, NULL);
}
