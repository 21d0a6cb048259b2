/* A lodge-vm that fails at one stage of a live update: its file is named vm.STAGE.HOW, HOW being crash or hang. */
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "vm/update/update.h"

void update_stage(const char *stage)
{
	char path[4096], *name, *how;
	ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 1);

	if (n <= 0)
		return;
	path[n] = 0;
	name = strstr(path, "/vm.");
	how = name ? strchr(name + 4, '.') : NULL;
	if (!how)
		return;
	*how++ = 0;
	if (strcmp(name + 4, stage))
		return;
	if (!strcmp(how, "crash"))
		__builtin_trap();
	for (;;)
		nanosleep(&(struct timespec){.tv_sec = 1}, NULL);
}
