#include "vm/migrate/chan.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"

#define LAST_WORD_NS 1000000000ull

struct chan {
	struct chan_opts o;
	SSL *ssl;
	bool local, torn; /* torn: half a message has gone out, nothing can follow */
	uint64_t out_seq, in_seq;
	struct chan_stat st;
};

struct chan_tls {
	SSL_CTX *ctx;
	char *peer;
};

/* ---- waiting ---- */

static int serve_beside(struct chan *c, struct err *e)
{
	struct chan_beside b = c->o.beside;
	int rc;

	c->o.beside.serve = NULL; /* what it sends does not come here again */
	rc = b.serve(b.ctx, e);
	c->o.beside = b;
	return rc;
}

static int timed_out(const struct chan *c, uint64_t now, struct err *e)
{
	if (c->o.until_ns && now >= c->o.until_ns)
		return err_set(e, -ETIMEDOUT, "the other side takes too long");
	return err_set(e, -ETIMEDOUT, "nothing moved on the connection for %llu s",
		(unsigned long long)(c->o.stall_ns / 1000000000));
}

static int wait_for(struct chan *c, short events, struct err *e)
{
	uint64_t began = clock_mono_ns(), now = began, end = began + c->o.stall_ns;
	int rc = 0;

	if (c->o.until_ns)
		end = MIN(end, c->o.until_ns);
	for (;;) {
		struct pollfd p[3] = {{c->o.fd, events, 0}, {c->o.cancel, POLLIN, 0},
			{c->o.beside.serve ? c->o.beside.fd : -1, POLLIN, 0}};
		int n = poll(p, 3,
			now < end ? (int)MIN((end - now + 999999) / 1000000, (uint64_t)INT_MAX)
				  : 0);

		if (n < 0 && errno != EINTR)
			rc = err_sys(e, -errno, "migration: poll");
		else if (n > 0 && p[1].revents)
			rc = err_set(e, -ECANCELED, "cancelled");
		else if (n > 0 && p[2].revents)
			rc = serve_beside(c, e);
		now = clock_mono_ns();
		if (rc || (n > 0 && p[0].revents))
			break;
		if (now >= end) {
			rc = timed_out(c, now, e);
			break;
		}
	}
	c->st.wait_ns += now - began;
	return rc;
}

static int broke(int code, struct err *e)
{
	return err_sys(e, code, "the connection broke");
}

static int tls_error(struct chan *c, int rc, struct err *e)
{
	int why = SSL_get_error(c->ssl, rc);
	unsigned long code;

	switch (why) {
	case SSL_ERROR_WANT_READ:
		return wait_for(c, POLLIN, e);
	case SSL_ERROR_WANT_WRITE:
		return wait_for(c, POLLOUT, e);
	case SSL_ERROR_ZERO_RETURN:
		return err_set(e, -ENOTCONN, "the other side has closed the connection");
	case SSL_ERROR_SYSCALL:
		ERR_clear_error();
		return broke(errno ? -errno : -ECONNRESET, e);
	default:
		code = ERR_get_error();
		ERR_clear_error();
		if (ERR_GET_REASON(code) == SSL_R_UNEXPECTED_EOF_WHILE_READING)
			return broke(-ECONNRESET, e);
		return err_set(e, SSL_is_init_finished(c->ssl) ? -EBADMSG : -EACCES, "TLS: %s",
			ERR_reason_error_string(code) ?: "failed");
	}
}

/* ---- bytes ---- */

static ssize_t plain_some(struct chan *c, struct iovec *iov, unsigned n, bool out, struct err *e)
{
	struct msghdr m = {.msg_iov = iov, .msg_iovlen = n};

	for (;;) {
		ssize_t got = out ? sendmsg(c->o.fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT)
				  : recvmsg(c->o.fd, &m, MSG_DONTWAIT);
		int rc;

		if (got > 0)
			return got;
		if (!got && !out)
			return err_set(e, -ENOTCONN, "the other side has closed the connection");
		if (errno == EINTR)
			continue;
		if (errno != EAGAIN)
			return broke(-errno, e);
		rc = wait_for(c, out ? POLLOUT : POLLIN, e);
		if (rc)
			return rc;
	}
}

static ssize_t tls_some(struct chan *c, struct iovec *iov, bool out, struct err *e)
{
	for (;;) {
		size_t got;
		int rc;

		errno = 0;
		rc = out ? SSL_write_ex(c->ssl, iov->iov_base, iov->iov_len, &got)
			 : SSL_read_ex(c->ssl, iov->iov_base, iov->iov_len, &got);
		if (rc > 0)
			return (ssize_t)got;
		rc = tls_error(c, rc, e);
		if (rc)
			return rc;
	}
}

static bool cancelled(const struct chan *c)
{
	struct pollfd p = {c->o.cancel, POLLIN, 0};

	return c->o.cancel >= 0 && poll(&p, 1, 0) > 0;
}

/* All of it; iov is changed. */
static int move(struct chan *c, struct iovec *iov, unsigned n, bool out, struct err *e)
{
	if (cancelled(c))
		return err_set(e, -ECANCELED, "cancelled");
	while (n && !iov->iov_len) {
		iov++;
		n--;
	}
	while (n) {
		ssize_t got = c->ssl ? tls_some(c, iov, out, e) : plain_some(c, iov, n, out, e);

		if (got < 0)
			return (int)got;
		*(out ? &c->st.sent : &c->st.received) += (uint64_t)got;
		while (n && (size_t)got >= iov->iov_len) {
			got -= (ssize_t)iov->iov_len;
			iov++;
			n--;
		}
		if (n) {
			iov->iov_base = (char *)iov->iov_base + got;
			iov->iov_len -= (size_t)got;
		}
	}
	return 0;
}

/* ---- messages ---- */

int chan_send(struct chan *c, enum mig_type type, uint64_t arg, const void *payload, uint32_t len,
	struct err *e)
{
	uint8_t head[MIG_HEAD];
	struct iovec iov[2] = {{head, sizeof(head)}, {(void *)(uintptr_t)payload, len}};
	uint64_t before = c->st.sent;
	int rc;

	mig_head_put(head, type, arg, c->out_seq, payload, len);
	rc = move(c, iov, 2, true, e);
	if (!rc)
		c->out_seq++;
	else
		c->torn |= c->st.sent != before;
	return rc;
}

static int take_payload(
	struct chan *c, const uint8_t *raw, uint32_t len, void **payload, struct err *e)
{
	cleanup(free_ptr) uint8_t *buf = malloc((size_t)len + 1);
	int rc;

	if (!buf)
		return err_set(e, -ENOMEM, "migration: out of memory");
	rc = move(c, &(struct iovec){buf, len}, 1, false, e) ?: mig_payload_check(raw, buf, len, e);
	if (rc)
		return rc == -ENOTCONN ? err_set(e, -ECONNRESET, "the stream was cut") : rc;
	buf[len] = 0;
	*payload = steal_ptr(buf);
	return 0;
}

int chan_recv(struct chan *c, struct mig_head *head, void **payload, struct err *e)
{
	cleanup(free_ptr) void *text = NULL;
	uint8_t raw[MIG_HEAD];
	int rc = move(c, &(struct iovec){raw, 1}, 1, false, e);

	*payload = NULL;
	if (rc)
		return rc;
	rc = move(c, &(struct iovec){raw + 1, sizeof(raw) - 1}, 1, false, e);
	if (rc == -ENOTCONN)
		rc = err_set(e, -ECONNRESET, "the stream was cut");
	if (!rc)
		rc = mig_head_get(raw, c->in_seq++, head, e);
	if (!rc && c->o.max && head->len > c->o.max)
		rc = err_set(
			e, -EMSGSIZE, "a message of %u bytes from nobody knows whom", head->len);
	if (!rc)
		rc = take_payload(c, raw, head->len, &text, e);
	if (rc)
		return rc;
	if (head->type == MIG_REFUSED)
		return err_set(e, -EREMOTEIO, "%.400s",
			head->len ? (char *)text : "the other side refused");
	*payload = steal_ptr(text);
	return 0;
}

int chan_await(struct chan *c, struct err *e)
{
	return c->ssl && SSL_has_pending(c->ssl) ? 0 : wait_for(c, POLLIN, e);
}

int chan_want(
	struct chan *c, enum mig_type type, struct mig_head *head, void **payload, struct err *e)
{
	cleanup(free_ptr) void *got = NULL;
	struct mig_head h;
	int rc = chan_recv(c, &h, &got, e);

	if (!rc && h.type != type)
		rc = err_set(
			e, -EBADMSG, "the other side said %u where %u was its turn", h.type, type);
	if (rc)
		return rc;
	if (head)
		*head = h;
	if (payload)
		*payload = steal_ptr(got);
	return 0;
}

int chan_poll(struct chan *c, struct pollfd *more, unsigned n, int ms)
{
	/* What TLS has read ahead does not show at the socket. */
	bool have = c->ssl && SSL_has_pending(c->ssl);
	struct pollfd p[1 + CHAN_MORE] = {{c->o.fd, POLLIN, 0}};
	int rc;

	n = MIN(n, CHAN_MORE);
	memcpy(p + 1, more, n * sizeof(*p));
	do
		rc = poll(p, n + 1, have ? 0 : ms);
	while (rc < 0 && errno == EINTR);
	memcpy(more, p + 1, n * sizeof(*p));
	return rc < 0 ? -errno : have || p[0].revents;
}

void chan_refuse(struct chan *c, const struct err *why)
{
	const char *text = err_msg(why);

	if (c->torn)
		return;
	c->o.cancel = -1;
	c->o.stall_ns = 2000000000;
	(void)chan_send(c, MIG_REFUSED, (uint64_t)-why->code, text, (uint32_t)strlen(text), NULL);
}

int chan_last_word(struct chan *c, int rc, struct err *e)
{
	uint64_t end = clock_mono_ns() + LAST_WORD_NS;

	if (rc != -EPIPE && rc != -ECONNRESET)
		return rc;
	c->o.cancel = -1;
	c->o.until_ns = end;
	for (int got = 0; !got && clock_mono_ns() < end;) {
		cleanup(free_ptr) void *payload = NULL;
		struct mig_head head;
		struct err why = {0};

		got = chan_recv(c, &head, &payload, &why);
		if (got == -EREMOTEIO) {
			*e = why;
			return got;
		}
	}
	return rc;
}

bool chan_is_direct(const struct chan *c, int pid)
{
	struct ucred cred;
	socklen_t len = sizeof(cred);

	return c->local && pid > 0 && !getsockopt(c->o.fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) &&
	       cred.pid == pid;
}

void chan_cancel_by(struct chan *c, int cancel)
{
	c->o.cancel = cancel;
}

void chan_stall(struct chan *c, uint64_t ns)
{
	c->o.stall_ns = ns;
}

void chan_known(struct chan *c)
{
	c->o.until_ns = 0;
	c->o.max = 0;
	c->o.beside.serve = NULL;
}

void chan_serve(struct chan *c, const struct chan_beside *b)
{
	c->o.beside = b ? *b : (struct chan_beside){0};
}

void chan_stat(const struct chan *c, struct chan_stat *out)
{
	*out = c->st;
}

/* ---- who has not said anything ---- */

static int lobby_take(struct chan_lobby *l, unsigned i)
{
	int fd = l->fd[i];

	memmove(l->fd + i, l->fd + i + 1, (--l->n - i) * sizeof(l->fd[0]));
	return fd;
}

static int lobby_admit(struct chan_lobby *l, int listener, struct err *e)
{
	int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

	if (fd < 0 && (errno == EINTR || errno == ECONNABORTED))
		return 0;
	if (fd < 0 && !l->n)
		return err_sys(e, -errno, "migration: who connects cannot be let in");
	if (fd < 0 || l->n == CHAN_LOBBY_MAX)
		close(lobby_take(l, 0));
	if (fd >= 0)
		l->fd[l->n++] = fd;
	return 0;
}

int chan_lobby_turn(struct chan_lobby *l, int listener, struct pollfd *more, unsigned n, int ms,
	int *fd, struct err *e)
{
	struct pollfd p[CHAN_LOBBY_MAX + 1 + CHAN_MORE];
	unsigned k = l->n;

	n = MIN(n, CHAN_MORE);
	for (unsigned i = 0; i < k; i++)
		p[i] = (struct pollfd){l->fd[i], POLLIN, 0};
	p[k] = (struct pollfd){listener, POLLIN, 0};
	for (unsigned i = 0; i < n; i++)
		p[k + 1 + i] = more[i];
	if (poll(p, k + 1 + n, ms) < 0) {
		for (unsigned i = 0; i < n; i++)
			more[i].revents = 0;
		return errno == EINTR ? 0 : err_sys(e, -errno, "migration: poll");
	}
	for (unsigned i = 0; i < n; i++)
		more[i] = p[k + 1 + i];
	for (unsigned i = 0; i < k; i++)
		if (p[i].revents) {
			*fd = lobby_take(l, i);
			return 1;
		}
	return p[k].revents ? lobby_admit(l, listener, e) : 0;
}

void chan_lobby_clear(struct chan_lobby *l)
{
	while (l->n)
		close(l->fd[--l->n]);
}

/* ---- life ---- */

static int handshake(struct chan *c, struct err *e)
{
	c->ssl = SSL_new(c->o.tls->ctx);
	if (!c->ssl || !SSL_set_fd(c->ssl, c->o.fd))
		return err_set(e, -ENOMEM, "TLS: out of memory");
	if (c->o.tls->peer && !SSL_set1_host(c->ssl, c->o.tls->peer))
		return err_set(e, -EINVAL, "TLS: '%s' is not a name", c->o.tls->peer);
	for (;;) {
		int rc;

		errno = 0;
		rc = c->o.server ? SSL_accept(c->ssl) : SSL_connect(c->ssl);
		if (rc == 1)
			return 0;
		rc = tls_error(c, rc, e);
		if (!rc)
			continue;
		if (SSL_get_verify_result(c->ssl) != X509_V_OK)
			return err_set(e, -EACCES, "TLS: the other side's certificate: %s",
				X509_verify_cert_error_string(SSL_get_verify_result(c->ssl)));
		return rc;
	}
}

int chan_create(struct chan **out, const struct chan_opts *o, struct err *e)
{
	struct chan *c = calloc(1, sizeof(*c));
	struct sockaddr_storage sa;
	socklen_t len = sizeof(sa);
	int one = 1, rc = 0;

	if (!c) {
		close(o->fd);
		return err_set(e, -ENOMEM, "migration: out of memory");
	}
	c->o = *o;
	c->o.stall_ns = o->stall_ns ?: CHAN_STALL_NS;
	if (getsockname(o->fd, (struct sockaddr *)&sa, &len) || fcntl(o->fd, F_SETFL, O_NONBLOCK))
		rc = err_sys(e, -errno, "migration: not a connection");
	c->local = !rc && sa.ss_family == AF_UNIX;
	if (!rc && !c->local)
		setsockopt(o->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (!rc && o->tls)
		rc = handshake(c, e);
	if (rc) {
		chan_free(c);
		return rc;
	}
	*out = c;
	return 0;
}

void chan_free(struct chan *c)
{
	if (!c)
		return;
	if (c->ssl && SSL_is_init_finished(c->ssl))
		SSL_shutdown(c->ssl);
	SSL_free(c->ssl);
	close(c->o.fd);
	free(c);
}

/* ---- certificates ---- */

static int tls_fail(struct err *e, const char *what)
{
	unsigned long code = ERR_get_error();

	ERR_clear_error();
	return err_set(e, -EINVAL, "TLS: %s: %s", what, ERR_reason_error_string(code) ?: "failed");
}

static int use_ca(SSL_CTX *ctx, const char *pem, struct err *e)
{
	BIO *bio = BIO_new_mem_buf(pem, -1);
	unsigned n = 0;
	X509 *x;

	while (bio && (x = PEM_read_bio_X509(bio, NULL, NULL, NULL))) {
		n += (unsigned)X509_STORE_add_cert(SSL_CTX_get_cert_store(ctx), x);
		X509_free(x);
	}
	BIO_free(bio);
	ERR_clear_error();
	return n ? 0 : err_set(e, -EINVAL, "TLS: there is no certificate in the CA's file");
}

static int use_cert(SSL_CTX *ctx, const char *pem, struct err *e)
{
	BIO *bio = BIO_new_mem_buf(pem, -1);
	X509 *x = bio ? PEM_read_bio_X509(bio, NULL, NULL, NULL) : NULL;
	int rc = x && SSL_CTX_use_certificate(ctx, x) ? 0 : tls_fail(e, "the certificate's file");

	X509_free(x);
	while (!rc && (x = PEM_read_bio_X509(bio, NULL, NULL, NULL)))
		if (!SSL_CTX_add0_chain_cert(ctx, x)) {
			X509_free(x);
			rc = tls_fail(e, "the certificate's chain");
		}
	BIO_free(bio);
	ERR_clear_error();
	return rc;
}

static int use_key(SSL_CTX *ctx, const char *pem, struct err *e)
{
	BIO *bio = BIO_new_mem_buf(pem, -1);
	EVP_PKEY *k = bio ? PEM_read_bio_PrivateKey(bio, NULL, NULL, (void *)(uintptr_t) "") : NULL;
	int rc = k && SSL_CTX_use_PrivateKey(ctx, k) ? 0 : tls_fail(e, "the key's file");

	EVP_PKEY_free(k);
	BIO_free(bio);
	return rc;
}

int chan_tls_create(struct chan_tls **out, const char *cert, const char *key, const char *ca,
	const char *peer, struct err *e)
{
	struct chan_tls *t = calloc(1, sizeof(*t));
	int rc;

	if (t)
		t->ctx = SSL_CTX_new(TLS_method());
	if (!t || !t->ctx) {
		free(t);
		return err_set(e, -ENOMEM, "TLS: out of memory");
	}
	t->peer = peer ? strdup(peer) : NULL;
	SSL_CTX_set_min_proto_version(t->ctx, TLS1_3_VERSION);
	SSL_CTX_set_session_cache_mode(t->ctx, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_num_tickets(t->ctx, 0);
	SSL_CTX_set_mode(t->ctx, SSL_MODE_ENABLE_PARTIAL_WRITE |
					 SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_AUTO_RETRY);
	SSL_CTX_set_verify(t->ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
	rc = use_cert(t->ctx, cert, e) ?: use_key(t->ctx, key, e) ?: use_ca(t->ctx, ca, e);
	if (rc) {
		chan_tls_free(t);
		return rc;
	}
	*out = t;
	return 0;
}

void chan_tls_free(struct chan_tls *t)
{
	if (!t)
		return;
	SSL_CTX_free(t->ctx);
	free(t->peer);
	free(t);
}
