#include "cli/ui/signals.h"

#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <sys/signalfd.h>

#include "base/err.h"
#include "base/util.h"

static const int ending[] = {SIGINT, SIGTERM, SIGHUP};

void signals_not_ignored(sigset_t *set, const int *list, unsigned n)
{
	struct sigaction how;

	sigemptyset(set);
	for (unsigned i = 0; i < n; i++)
		if (sigaction(list[i], NULL, &how) || how.sa_handler != SIG_IGN)
			sigaddset(set, list[i]);
}

int signals_hold(int *fd, const int *more, struct err *e)
{
	int list[ARRAY_SIZE(ending) + 8];
	unsigned n = 0;
	sigset_t set;

	while (n < ARRAY_SIZE(ending)) {
		list[n] = ending[n];
		n++;
	}
	while (more && *more && n < ARRAY_SIZE(list))
		list[n++] = *more++;
	signals_not_ignored(&set, list, n);
	*fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return *fd < 0 || sigprocmask(SIG_BLOCK, &set, NULL) ? err_sys(e, -errno, "signalfd") : 0;
}

bool signals_came(int fd)
{
	return fd >= 0 && poll(&(struct pollfd){fd, POLLIN, 0}, 1, 0) > 0;
}

void signals_let_go(void)
{
	sigset_t set;

	signals_not_ignored(&set, ending, ARRAY_SIZE(ending));
	sigprocmask(SIG_UNBLOCK, &set, NULL);
}

void signals_of_child(void)
{
	sigset_t none;

	for (unsigned i = 0; i < ARRAY_SIZE(ending); i++)
		signal(ending[i], SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}
