/* receive.c: a machine that comes from elsewhere. */
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/err.h"
#include "base/fsutil.h"
#include "base/json.h"
#include "base/util.h"
#include "vm/control/control.h"
#include "vm/migrate/chan.h"
#include "vm/migrate/disks_in.h"
#include "vm/migrate/receive.h"
#include "vm/process/process.h"
#include "vm/vm.h"

static int read_tls(struct process *p, struct chan_tls **out, struct err *e)
{
	cleanup(free_ptr) char *cert = NULL, *key = NULL, *ca = NULL;
	int rc;

	*out = NULL;
	if (!p->tls_cert && !p->tls_key && !p->tls_ca)
		return 0;
	if (!p->tls_cert || !p->tls_key || !p->tls_ca)
		return err_set(e, -EINVAL, "--tls-cert, --tls-key and --tls-ca go together");
	rc = fs_read_file(p->tls_cert, MiB, &cert, NULL, e)
		     ?: fs_read_file(p->tls_key, MiB, &key, NULL, e)
		     ?: fs_read_file(p->tls_ca, MiB, &ca, NULL, e);
	return rc ?: chan_tls_create(out, cert, key, ca, NULL, e);
}

/* Without a definition of our own it is the source's, under our name; what it says lies relative to where it was started. */
static int adopt_definition(struct process *p, struct err *e)
{
	const json_t *hello = receive_hello(p->receive);
	const char *dir = json_string_value(json_object_get(hello, "directory"));
	struct vm_config c;
	struct vm_host host;
	int rc = 0;

	if (!p->config) {
		rc = vm_config_init(&c, e)
			     ?: vm_config_from_json(&c, json_object_get(hello, "definition"), e);
		if (!rc) {
			free(c.name);
			c.name = steal_ptr(p->cfg.name);
			free(c.log);
			c.log = steal_ptr(p->cfg.log);
		}
		vm_config_free(&p->cfg);
		p->cfg = c;
		if (!rc && dir && *dir && chdir(dir) && errno != ENOENT)
			rc = err_sys(e, -errno, "%s, where the machine was started", dir);
	}
	for (unsigned i = 0; !rc && i < p->nplaces; i++)
		rc = vm_disk_place(&p->cfg, p->places[i].text, e);
	if (!rc)
		rc = disks_in_create(&p->disks,
			&(struct disks_in_opts){.hello = hello,
				.cfg = &p->cfg,
				.overwrite = p->overwrite,
				.own = p->config,
				.places = p->places,
				.nplaces = p->nplaces,
				.loop = &p->loop},
			e);
	rc = rc ?: vm_host_read(&host, e);
	return rc ?: vm_config_validate(&p->cfg, &host, true, e);
}

int process_await(struct process *p, struct err *e)
{
	struct chan_tls *tls;
	int rc = read_tls(p, &tls, e) ?: receive_open(&p->receive, (int)p->receive_fd, tls, e);

	return rc ?: adopt_definition(p, e);
}

/* Its images have their names: who waits finds them. */
static void on_named(void *ctx, const struct err *why)
{
	struct process *p = ctx;

	if (why) {
		cleanup(json_drop) json_t *said = json_pack("{s:s}", "text", err_msg(why));

		log_error(&p->log, "receive", "%s", err_msg(why));
		control_event(p->control, "error", said);
	}
	disks_in_free(steal_ptr(p->disks));
	process_tell_ready(p, why); /* after post-copy it was said long ago */
}

static void on_received(void *ctx, const struct err *why)
{
	struct process *p = ctx;

	if (why) {
		process_tell_failed(p, why,
			json_is_true(json_object_get(receive_hello(p->receive), "dry_run")));
		log_error(&p->log, "receive", "%s", err_msg(why));
		vm_end(p->vm, VM_CAUSE_ERROR, 1, err_msg(why));
		return;
	}
	if (receive_is_coming(p->receive)) {
		process_tell_ready(p, NULL);
		return; /* with the socket, to which a new connection comes when this one breaks */
	}
	receive_free(steal_ptr(p->receive));
	close((int)p->receive_fd);
	if (p->disks)
		disks_in_end(p->disks, on_named, p);
	else
		process_tell_ready(p, NULL); /* after post-copy it was said long ago */
}

int process_receive(struct process *p, struct err *e)
{
	return receive_start(p->receive, p->vm, p->disks, on_received, p, e);
}
