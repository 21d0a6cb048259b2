#include "cli/migrate/tls.h"

#include <errno.h>
#include <jansson.h>

#include "base/err.h"
#include "base/fsutil.h"
#include "base/util.h"

const struct opt tls_opts[] = {
	{"tls-cert", .type = OPT_TEXT, OPT_AT(struct tls_opts, cert), .arg = "FILE",
		.complete = OPT_COMPLETE_FILE,
		.help = "speak TLS and show this certificate (PEM, with its chain)"},
	{"tls-key", .type = OPT_TEXT, OPT_AT(struct tls_opts, key), .arg = "FILE",
		.complete = OPT_COMPLETE_FILE, .help = "its key"},
	{"tls-ca", .type = OPT_TEXT, OPT_AT(struct tls_opts, ca), .arg = "FILE",
		.complete = OPT_COMPLETE_FILE,
		.help = "what must have signed the other side's certificate"},
	{"tls-peer", .type = OPT_TEXT, OPT_AT(struct tls_opts, peer), .arg = "NAME",
		.help = "whom the destination's certificate must be for; without it the host of "
			"its address"},
	{"plain", .type = OPT_FLAG, OPT_AT(struct tls_opts, plain),
		.help = "without TLS also over a network: only where everybody on it is trusted"},
	OPT_DONE,
};

int tls_opts_check(const struct tls_opts *t, struct err *e)
{
	if (!t->cert == !t->key && !t->key == !t->ca)
		return 0;
	return err_set(e, -EINVAL, "--tls-cert, --tls-key and --tls-ca go together");
}

static int read_one(const char *option, const char *path, size_t max, char **out, struct err *e)
{
	return fs_read_file(path, max, out, NULL, e) ? err_wrap(e, "%s", option) : 0;
}

int tls_opts_read(const struct tls_opts *t, const char *host, json_t **out, struct err *e)
{
	cleanup(free_ptr) char *cert = NULL, *key = NULL, *ca = NULL;
	int rc;

	*out = NULL;
	if (!t->cert)
		return 0;
	rc = read_one("--tls-cert", t->cert, 256 * KiB, &cert, e)
		     ?: read_one("--tls-key", t->key, 64 * KiB, &key, e)
		     ?: read_one("--tls-ca", t->ca, 256 * KiB, &ca, e);
	if (rc)
		return rc;
	*out = json_pack("{s:s, s:s, s:s, s:s*}", "cert", cert, "key", key, "ca", ca, "peer",
		t->peer
			?: host && *host ? host
					 : NULL);
	return *out ? 0 : err_set(e, -ENOMEM, "out of memory");
}
