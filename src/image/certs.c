#include <dirent.h>
#include <errno.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <stdio.h>

#include "base/util.h"
#include "image/offline.h"

#define CERTS "usr/share/ca-certificates/mozilla"

static const char conf_head[] =
	"# This file lists certificates that you wish to use or to ignore to be\n"
	"# installed in /etc/ssl/certs; update-ca-certificates(8) reads it.\n"
	"# A line that begins with ! names a certificate to be left out.\n";

/* The name that OpenSSL looks a certificate up by: the hash of its subject and the next free number. */
static int link_by_hash(struct rootfs *r, const struct buf *pem, const char *to, struct err *e)
{
	BIO *bio = BIO_new_mem_buf(pem->p, (int)pem->n);
	X509 *x = bio ? PEM_read_bio_X509(bio, NULL, NULL, NULL) : NULL;
	unsigned long hash = x ? X509_subject_name_hash(x) : 0;
	int rc = -EEXIST;

	X509_free(x);
	BIO_free(bio);
	if (!x)
		return err_set(e, -EINVAL, "%s is not a certificate", to);
	for (int i = 0; rc == -EEXIST && i < 10; i++) {
		char name[64];

		snprintf(name, sizeof(name), "etc/ssl/certs/%08lx.%d", hash, i);
		if (!rootfs_has(r, name))
			rc = rootfs_link(r, name, to, e);
	}
	return rc;
}

static int add_one(
	struct rootfs *r, const char *file, struct buf *bundle, struct buf *conf, struct err *e)
{
	cleanup(free_ptr) char *path = text_fmt(CERTS "/%s", file);
	cleanup(free_ptr) char *pem = text_fmt("%.*s.pem", (int)(strlen(file) - 4), file);
	cleanup(free_ptr) char *link = NULL, *to = NULL;
	cleanup(buf_free) struct buf b = {0};
	int rc;

	if (!path || !pem)
		return err_set(e, -ENOMEM, "out of memory");
	for (char *c = pem; *c; c++)
		*c = *c == ' ' || *c == ',' ? '_' : *c == '(' || *c == ')' ? '=' : *c;
	link = text_fmt("etc/ssl/certs/%s", pem);
	to = text_fmt("/%s", path);
	if (!link || !to)
		return err_set(e, -ENOMEM, "out of memory");
	rc = rootfs_read(r, path, MiB, &b, e) ?: rootfs_link(r, link, to, e) ?:
		link_by_hash(r, &b, pem, e);
	buf_add(bundle, b.p, b.n);
	if (b.n && b.p[b.n - 1] != '\n')
		buf_str(bundle, "\n");
	buf_fmt(conf, "mozilla/%s\n", file);
	return rc;
}

int offline_certificates(struct rootfs *r, struct err *e)
{
	cleanup(free_ptr) char *dir = text_fmt("%s/" CERTS, r->dir);
	cleanup(buf_free) struct buf bundle = {0}, conf = {0};
	struct dirent **v = NULL;
	int n = dir ? scandir(dir, &v, NULL, alphasort) : -1, rc = 0;

	buf_str(&conf, conf_head);
	for (int i = 0; i < n; i++) {
		size_t len = strlen(v[i]->d_name);

		if (!rc && len > 4 && !strcmp(v[i]->d_name + len - 4, ".crt"))
			rc = add_one(r, v[i]->d_name, &bundle, &conf, e);
		free(v[i]);
	}
	free(v);
	if (!rc && !bundle.n)
		rc = err_set(e, -ENOENT, "ca-certificates has no certificates");
	if (!rc)
		rc = buf_err(&bundle, e) ?: buf_err(&conf, e);
	if (!rc)
		rc = rootfs_put(r, "etc/ssl/certs/ca-certificates.crt", 0644, bundle.p, e) ?:
			rootfs_put(r, "etc/ca-certificates.conf", 0644, conf.p, e) ?:
			rootfs_mkdir(r, "usr/local/share/ca-certificates", 0755, e);
	return rc;
}
