#include <errno.h>
#include <jansson.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/json.h"
#include "base/util.h"
#include "vm/internal.h"
#include "vm/migrate/chan.h"
#include "vm/migrate/migrate.h"
#include "vm/rpc.h"

static int read_tls(const json_t *j, struct chan_tls **out, struct err *e)
{
	const char *cert = NULL, *key = NULL, *ca = NULL, *peer = NULL;
	int rc = json_want_text(j, "tls", "cert", true, &cert, e)
			 ?: json_want_text(j, "tls", "key", true, &key, e)
			 ?: json_want_text(j, "tls", "ca", true, &ca, e)
			 ?: json_want_text(j, "tls", "peer", false, &peer, e);

	return rc ?: chan_tls_create(out, cert, key, ca, peer, e);
}

static int read_params(const json_t *p, struct vm_migrate_opts *o, struct err *e)
{
	uint64_t downtime_us = 0;
	const char *post = NULL;
	json_t *tls = NULL, *shared = NULL;
	bool throttle = true;
	int rc;

	if (!p)
		return 0;
	rc = json_want_u64(p, "migrate", "bandwidth", false, &o->bandwidth, e)
		     ?: json_want_u64(p, "migrate", "downtime_us", false, &downtime_us, e)
		     ?: json_want_text(p, "migrate", "post_copy", false, &post, e)
		     ?: json_want_bool(p, "migrate", "recover", false, &o->recover, e)
		     ?: json_want_bool(p, "migrate", "dry_run", false, &o->dry_run, e)
		     ?: json_want_bool(p, "migrate", "throttle", false, &throttle, e)
		     ?: json_want_bool(p, "migrate", "copy_disks", false, &o->copy_disks, e)
		     ?: json_want_array(p, "migrate", "shared", false, &shared, e)
		     ?: json_want_object(p, "migrate", "tls", false, &tls, e);
	o->downtime_ns = downtime_us * 1000;
	o->no_throttle = !throttle;
	if (post && !strcmp(post, "after-round"))
		o->post = MIG_POST_AFTER_ROUND;
	else if (post && !strcmp(post, "at-once"))
		o->post = MIG_POST_AT_ONCE;
	else if (post)
		rc = err_set(e, -EINVAL, "migrate: post_copy is after-round or at-once");
	o->shared = shared;
	return rc || !tls ? rc : read_tls(tls, &o->tls, e);
}

int vm_migrate_rpc(struct vm *vm, struct rpc_conn *conn, const json_t *p, struct err *e)
{
	struct vm_migrate_opts o = {0};
	int fd, rc;

	while (o.nfds < MIG_STREAMS_MAX && (fd = rpc_conn_take_fd(conn)) >= 0)
		o.fd[o.nfds++] = fd;
	rc = o.nfds ? read_params(p, &o, e)
		    : err_set(e, -EINVAL,
			      "migrate_start wants connected sockets that are passed with the "
			      "request, one a stream");
	if (rc) {
		for (unsigned i = 0; i < o.nfds; i++)
			close(o.fd[i]);
		return rc;
	}
	return vm_migrate_start(vm, &o, e);
}
