/* TIME, IDENTITY, FREEZE, POWER, INFO: the guest as a whole. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/random.h>
#include <mntent.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "guest/agent.h"

static uint64_t now(clockid_t c)
{
	struct timespec t;

	clock_gettime(c, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void serve_time(struct peer *p)
{
	uint64_t to = agent_get_u64(&p->in), was = now(CLOCK_REALTIME);
	struct timespec t = {(time_t)(to / 1000000000u), (long)(to % 1000000000u)};

	peer_check(p);
	if (to && clock_settime(CLOCK_REALTIME, &t))
		peer_error(p, errno, "clock", NULL);
	else
		peer_ok(p, was);
}

/* ---- identity ---- */

/* Credits the seed as entropy, and has the generator use it now. */
static int reseed(const uint8_t *seed, size_t len)
{
	struct {
		struct rand_pool_info head;
		uint8_t bytes[512];
	} pool = {.head = {.entropy_count = (int)(8 * len), .buf_size = (int)len}};
	int fd = open("/dev/urandom", O_RDWR | O_CLOEXEC), err = 0;

	if (len > sizeof(pool.bytes))
		err = E2BIG;
	else if (fd < 0)
		err = errno;
	if (!err) {
		memcpy(pool.head.buf, seed, len);
		if (ioctl(fd, RNDADDENTROPY, &pool) || ioctl(fd, RNDRESEEDCRNG))
			err = errno;
	}
	if (fd >= 0)
		close(fd);
	return err;
}

static int write_file(const char *path, const char *text, mode_t mode)
{
	char temp[64];
	int fd, err = 0;

	snprintf(temp, sizeof(temp), "%s.lodge", path);
	fd = open(temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
	if (fd < 0)
		return errno;
	if (write(fd, text, strlen(text)) != (ssize_t)strlen(text) || fsync(fd) ||
		rename(temp, path))
		err = errno;
	close(fd);
	if (err)
		unlink(temp);
	return err;
}

static int new_machine_id(void)
{
	char text[34];
	uint8_t id[16];

	if (getrandom(id, sizeof(id), 0) != sizeof(id))
		return errno;
	/* A random UUID, as systemd makes it (machine-id(5)). */
	id[6] = (uint8_t)((id[6] & 0x0f) | 0x40);
	id[8] = (uint8_t)((id[8] & 0x3f) | 0x80);
	for (int i = 0; i < 16; i++)
		sprintf(text + 2 * i, "%02x", id[i]);
	strcpy(text + 32, "\n");
	return write_file("/etc/machine-id", text, 0444);
}

static int run(const char *program, const char *a, const char *b)
{
	int status;
	pid_t pid = fork();

	if (!pid) {
		int null = open("/dev/null", O_RDWR);

		dup2(null, 0);
		dup2(null, 1);
		dup2(null, 2);
		execl(program, program, a, b, NULL);
		_exit(127); /* forked child */
	}
	if (pid < 0 || waitpid(pid, &status, 0) < 0)
		return errno;
	return WIFEXITED(status) && !WEXITSTATUS(status) ? 0 : EIO;
}

/* New keys are whole before the old ones go; a running sshd takes them when it is told. */
static int new_host_keys(void)
{
	static const char *const types[] = {"rsa", "ecdsa", "ed25519"};
	char path[64], temp[64], pub[80], temp_pub[80], line[96];
	int err = 0;

	if (access("/usr/bin/ssh-keygen", X_OK))
		return 0; /* no SSH, no keys */
	mkdir("/etc/ssh/.lodge", 0700);
	mkdir("/etc/ssh/.lodge/etc", 0700);
	mkdir("/etc/ssh/.lodge/etc/ssh", 0700);
	err = run("/usr/bin/ssh-keygen", "-A", "-f/etc/ssh/.lodge");
	for (size_t i = 0; !err && i < sizeof(types) / sizeof(*types); i++) {
		snprintf(path, sizeof(path), "/etc/ssh/ssh_host_%s_key", types[i]);
		snprintf(temp, sizeof(temp), "/etc/ssh/.lodge/etc/ssh/ssh_host_%s_key", types[i]);
		snprintf(pub, sizeof(pub), "%s.pub", path);
		snprintf(temp_pub, sizeof(temp_pub), "%s.pub", temp);
		if (access(temp, F_OK))
			continue;
		if (rename(temp, path) || rename(temp_pub, pub))
			err = errno;
	}
	snprintf(line, sizeof(line), "/etc/ssh/.lodge");
	rmdir("/etc/ssh/.lodge/etc/ssh");
	rmdir("/etc/ssh/.lodge/etc");
	rmdir(line);
	if (!err && !access("/usr/bin/systemctl", X_OK))
		run("/usr/bin/systemctl", "try-reload-or-restart", "ssh.service");
	return err;
}

static int new_host_name(const char *name)
{
	char line[80];

	if (strlen(name) > 64 || strpbrk(name, "\n/ "))
		return EINVAL;
	if (sethostname(name, strlen(name)))
		return errno;
	snprintf(line, sizeof(line), "%s\n", name);
	return write_file("/etc/hostname", line, 0644);
}

void serve_identity(struct peer *p)
{
	uint32_t flags = agent_get_u32(&p->in);
	size_t len;
	const uint8_t *seed = agent_get_bytes(&p->in, &len);
	char *host = agent_get_text(&p->in);
	const char *step = "reseed";
	int err;

	peer_check(p);
	/* The seed first: the other things are made of random numbers. */
	err = len ? reseed(seed, len) : 0;
	if (!err && (flags & AGENT_ID_MACHINE_ID)) {
		step = "machine-id";
		err = new_machine_id();
	}
	if (!err && *host) {
		step = "host name";
		err = new_host_name(host);
	}
	if (!err && (flags & AGENT_ID_HOST_KEYS)) {
		step = "host keys";
		err = new_host_keys();
	}
	if (err)
		peer_error(p, err, "identity", step);
	else
		peer_ok(p, 0);
	free(host);
}

/* ---- freeze ---- */

#define MOUNTS_MAX 64
static int frozen[MOUNTS_MAX], nfrozen;

static void thaw(void)
{
	while (nfrozen) {
		int fd = frozen[--nfrozen];

		ioctl(fd, FITHAW, 0);
		close(fd);
	}
}

static void watchdog(int sig)
{
	/* ioctl() and close() may be called here (signal-safety(7)); nothing else touches the list now. */
	thaw();
	_exit(1);
}

/* Those with a block device, each once, last mounted first: a file system on a loop device before the one below. */
static int freeze_all(const char **where)
{
	static char dirs[MOUNTS_MAX][256];
	dev_t seen[MOUNTS_MAX];
	FILE *f = setmntent("/proc/self/mounts", "re");
	struct mntent *m;
	int n = 0;

	if (!f)
		return errno;
	while ((m = getmntent(f)) && n < MOUNTS_MAX) {
		struct stat st;
		int i = 0;

		if (m->mnt_fsname[0] != '/' || hasmntopt(m, "ro") || stat(m->mnt_dir, &st) ||
			strlen(m->mnt_dir) >= sizeof(dirs[0]))
			continue;
		while (i < n && seen[i] != st.st_dev)
			i++;
		if (i < n)
			continue;
		seen[n] = st.st_dev;
		strcpy(dirs[n++], m->mnt_dir);
	}
	endmntent(f);
	/* Open all before the first is frozen: nothing may need to be looked up afterwards. */
	while (n--) {
		int fd = open(dirs[n], O_RDONLY | O_DIRECTORY | O_CLOEXEC);

		*where = dirs[n];
		if (fd < 0)
			return errno;
		if (ioctl(fd, FIFREEZE, 0)) {
			int err = errno;

			close(fd);
			if (err == EOPNOTSUPP || err == EINVAL)
				continue;
			return err;
		}
		frozen[nfrozen++] = fd;
	}
	return 0;
}

void serve_freeze(struct peer *p)
{
	uint32_t ms = agent_get_u32(&p->in);
	const char *where = "mounts";
	struct sigaction sa = {.sa_handler = watchdog};
	int err;

	peer_check(p);
	if (!ms || ms > 600000)
		peer_bad(p, "freeze: 1 to 600000 milliseconds");
	atexit(thaw);
	sigaction(SIGALRM, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	alarm((ms + 999) / 1000);
	sync();
	err = freeze_all(&where);
	if (err) {
		thaw();
		alarm(0);
		peer_error(p, err, "freeze", where);
		return;
	}
	peer_ok(p, (uint64_t)nfrozen);
	peer_next(p); /* its end thaws: atexit() */
	if (p->in.type != AGENT_THAW)
		peer_bad(p, "frozen: only a thaw can come now");
	peer_check(p);
	thaw();
	alarm(0);
	peer_ok(p, 0);
}

/* ---- power, information ---- */

void serve_power(struct peer *p)
{
	static const char *const verbs[] = {"poweroff", "reboot", "halt"};
	static const int signals[] = {SIGUSR2, SIGTERM, SIGUSR1}; /* busybox init, and ours */
	uint32_t what = agent_get_u32(&p->in);
	int err;

	peer_check(p);
	if (what >= sizeof(verbs) / sizeof(*verbs))
		peer_bad(p, "power: off, reboot or halt");
	if (!access("/run/systemd/system", F_OK))
		err = run("/usr/bin/systemctl", "--no-block", verbs[what]);
	else
		err = kill(1, signals[what]) ? errno : 0;
	if (err)
		peer_error(p, err, verbs[what], NULL);
	else
		peer_ok(p, 0);
}

static void add_file(struct peer *p, const char *key, const char *path, const char *only)
{
	char line[256];
	FILE *f = fopen(path, "re");

	while (f && fgets(line, sizeof(line), f)) {
		line[strcspn(line, "\n")] = 0;
		if (only && strncmp(line, only, strlen(only)))
			continue;
		agent_put_rest(&p->out, key, strlen(key));
		agent_put_rest(&p->out, line + (only ? strlen(only) : 0),
			strlen(line) - (only ? strlen(only) : 0));
		agent_put_rest(&p->out, "\n", 1);
		break;
	}
	if (f)
		fclose(f);
}

void serve_info(struct peer *p)
{
	struct utsname u;
	char text[512];

	peer_check(p);
	uname(&u);
	agent_begin(&p->out, AGENT_TEXT);
	agent_put_rest(&p->out, text,
		(size_t)snprintf(text, sizeof(text),
			"hostname=%s\nkernel=%s\nmachine=%s\nclock_ns=%llu\nuptime_ns=%llu\n",
			u.nodename, u.release, u.machine, (unsigned long long)now(CLOCK_REALTIME),
			(unsigned long long)now(CLOCK_BOOTTIME)));
	add_file(p, "os=", "/etc/os-release", "PRETTY_NAME=");
	add_file(p, "machine_id=", "/etc/machine-id", NULL);
	add_file(p, "boot_id=", "/proc/sys/kernel/random/boot_id", NULL);
	peer_send(p);
}
