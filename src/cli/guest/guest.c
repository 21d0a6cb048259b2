#include "cli/guest/guest.h"

#include <errno.h>
#include <limits.h>
#include <unistd.h>

#include "agent/client.h"
#include "base/err.h"
#include "base/util.h"
#include "cli/client.h"

#define ANSWER_MS 10000

int guest_agent(struct agent_client **out, const char *name, unsigned wait_s, struct err *e)
{
	cleanup(client_close) struct client c = {.fd = -1};
	char path[PATH_MAX];
	/* Is there such a machine? This has the better message. */
	int rc = client_open(&c, name, e) ?: client_path(name, "vsock.sock", path, sizeof(path), e);

	if (rc)
		return rc;
	if (access(path, F_OK))
		return err_set(
			e, -ENOTSUP, "machine %s has no vsock: start it without --vsock off", name);
	rc = agent_open(out, path, wait_s ? wait_s * 1000 : ANSWER_MS, wait_s > 0, e);
	if (rc)
		return err_wrap(e, "machine %s", name);
	(*out)->timeout_ms = ANSWER_MS;
	return 0;
}
