/* folder.h: an empty folder for a group of tests, which work in it. */
#ifndef LODGE_TESTS_FOLDER_H
#define LODGE_TESTS_FOLDER_H

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static char top[64];

static inline int make_top(void **state)
{
	snprintf(top, sizeof(top), "/tmp/lodge-test-XXXXXX");
	return !mkdtemp(top) || chdir(top);
}

static inline int drop_top(void **state)
{
	char cmd[100];

	snprintf(cmd, sizeof(cmd), "rm -rf %s", top);
	return system(cmd);
}

#endif
