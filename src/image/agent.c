#include "image/agent.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/util.h"

#define AGENT_MAX (16u << 20)

const char agent_unit[] = "[Unit]\n"
			  "Description=Lodge's agent\n"
			  "ConditionVirtualization=yes\n"
			  "\n"
			  "[Service]\n"
			  "ExecStart=/" AGENT_PATH "\n"
			  "Restart=on-failure\n"
			  "RestartSec=1\n"
			  "KillMode=process\n"
			  "\n"
			  "[Install]\n"
			  "WantedBy=multi-user.target\n";

int agent_program(const char *arch, struct buf *out, struct err *e)
{
	/* As installed, and in a build tree. */
	static const char *const places[] = {"../libexec/lodge", "../agent"};
	char self[PATH_MAX], *slash;
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

	if (n <= 0)
		return err_sys(e, -errno, "/proc/self/exe");
	self[n] = 0;
	slash = strrchr(self, '/');
	*slash = 0;
	for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
		cleanup(free_ptr) char *path = text_fmt(
			"%s/%s/lodge-agent.%s", self, places[i], arch);

		if (path && !access(path, R_OK))
			return whole_file_read(path, AGENT_MAX, out, e);
	}
	return err_set(e, -ENOENT,
		"this build has no lodge-agent for %s (its compiler was missing): lodge exec and "
		"lodge cp will not work in the image",
		arch);
}
