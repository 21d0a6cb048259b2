#include "device/uart.h"

#include <errno.h>
#include <jansson.h>
#include <string.h>

#include "base/err.h"
#include "device/chardev.h"
#include "device/classes.h"

#define FIFO 16

enum { RBR_THR, IER, IIR_FCR, LCR, MCR, LSR, MSR, SCR };
enum { IER_RX = 1, IER_TX = 2, IER_LINE = 4, IER_MODEM = 8 };
enum { IIR_NONE = 1, IIR_MODEM = 0, IIR_TX = 2, IIR_RX = 4, IIR_LINE = 6, IIR_TIMEOUT = 0xc };
enum { FCR_ENABLE = 1, FCR_CLEAR_RX = 2, FCR_KEEP = 0xc9 };
enum { LCR_DLAB = 0x80, MCR_LOOP = 0x10 };
enum { LSR_DATA = 1, LSR_OVERRUN = 2, LSR_TX_EMPTY = 0x60 };
enum { MSR_DELTA = 0x0f, MSR_CTS = 0x10, MSR_DSR = 0x20, MSR_RI = 0x40, MSR_DCD = 0x80 };

struct uart {
	struct device dev;
	struct bus_region region;
	struct irq_line irq;
	struct chardev *chardev;
	uint8_t ier, fcr, lcr, mcr, msr, scr, dll, dlm;
	bool overrun, tx_due; /* tx_due: "transmitter empty" has not been reported yet */
	uint8_t rx[FIFO]; /* rx[0] is the oldest */
	uint8_t rx_count;
	uint64_t tx_total, rx_total;
};

static unsigned rx_room(const struct uart *u)
{
	return (u->fcr & FCR_ENABLE ? FIFO : 1u);
}

static uint8_t interrupt(const struct uart *u)
{
	static const uint8_t trigger[4] = {1, 4, 8, 14};
	bool fifo = u->fcr & FCR_ENABLE;

	if ((u->ier & IER_LINE) && u->overrun)
		return IIR_LINE;
	if ((u->ier & IER_RX) && u->rx_count)
		return !fifo || u->rx_count >= trigger[u->fcr >> 6] ? IIR_RX : IIR_TIMEOUT;
	if ((u->ier & IER_TX) && u->tx_due)
		return IIR_TX;
	if ((u->ier & IER_MODEM) && (u->msr & MSR_DELTA))
		return IIR_MODEM;
	return IIR_NONE;
}

static void update(struct uart *u)
{
	irq_set(&u->irq, interrupt(u) != IIR_NONE);
}

/* Fills the FIFO from the channel; with loopback on, the line is not connected. Device lock held. */
static void pull(struct uart *u)
{
	unsigned room = rx_room(u);
	size_t n;

	if (!u->chardev || (u->mcr & MCR_LOOP) || u->rx_count >= room)
		return;
	n = chardev_read(u->chardev, u->rx + u->rx_count, room - u->rx_count);
	u->rx_count = (uint8_t)(u->rx_count + n);
	u->rx_total += n;
}

static void on_input(void *ctx)
{
	struct uart *u = ctx;

	pthread_mutex_lock(&u->dev.lock);
	pull(u);
	update(u);
	pthread_mutex_unlock(&u->dev.lock);
}

static uint8_t rx_pop(struct uart *u)
{
	uint8_t v = u->rx[0];

	if (!u->rx_count)
		return 0;
	u->rx_count--;
	memmove(u->rx, u->rx + 1, u->rx_count);
	pull(u);
	return v;
}

static void transmit(struct uart *u, uint8_t v)
{
	if (u->mcr & MCR_LOOP) {
		if (u->rx_count < rx_room(u))
			u->rx[u->rx_count++] = v;
		else
			u->overrun = true;
	} else {
		u->tx_total++;
		if (u->chardev)
			chardev_write_lossy(u->chardev, &v, 1);
	}
	u->tx_due = true;
}

/* Modem inputs: all good from outside, or the outputs of MCR in loopback. A change sets the delta bits. */
static void modem(struct uart *u)
{
	uint8_t now = MSR_CTS | MSR_DSR | MSR_DCD, was = u->msr & 0xf0, change;

	if (u->mcr & MCR_LOOP)
		now = (uint8_t)((u->mcr & 2 ? MSR_CTS : 0) | (u->mcr & 1 ? MSR_DSR : 0) |
				(u->mcr & 4 ? MSR_RI : 0) | (u->mcr & 8 ? MSR_DCD : 0));
	change = now ^ was;
	if (!(was & MSR_RI))
		change &= (uint8_t)~MSR_RI; /* only the end of a ring counts */
	u->msr = (uint8_t)(now | (u->msr & MSR_DELTA) | change >> 4);
}

static uint8_t iir_read(struct uart *u)
{
	uint8_t v = interrupt(u);

	if (v == IIR_TX)
		u->tx_due = false;
	return v | (u->fcr & FCR_ENABLE ? 0xc0 : 0);
}

static uint8_t reg_read(struct uart *u, unsigned reg)
{
	uint8_t v;

	switch (reg) {
	case RBR_THR:
		return u->lcr & LCR_DLAB ? u->dll : rx_pop(u);
	case IER:
		return u->lcr & LCR_DLAB ? u->dlm : u->ier;
	case IIR_FCR:
		return iir_read(u);
	case LCR:
		return u->lcr;
	case MCR:
		return u->mcr;
	case LSR:
		v = (uint8_t)(LSR_TX_EMPTY | (u->rx_count ? LSR_DATA : 0) |
			      (u->overrun ? LSR_OVERRUN : 0));
		u->overrun = false;
		return v;
	case MSR:
		v = u->msr;
		u->msr &= (uint8_t)~MSR_DELTA;
		return v;
	case SCR:
		return u->scr;
	default:
		return 0;
	}
}

static void fcr_write(struct uart *u, uint8_t v)
{
	/* Turning the FIFO on or off empties it (data sheet, 8.5). */
	if (((u->fcr ^ v) & FCR_ENABLE) || (v & FCR_CLEAR_RX))
		u->rx_count = 0;
	u->fcr = v & FCR_ENABLE ? v & FCR_KEEP : 0;
	pull(u);
}

static void reg_write(struct uart *u, unsigned reg, uint8_t v)
{
	switch (reg) {
	case RBR_THR:
		if (u->lcr & LCR_DLAB)
			u->dll = v;
		else
			transmit(u, v);
		break;
	case IER:
		if (u->lcr & LCR_DLAB) {
			u->dlm = v;
			break;
		}
		if ((v & IER_TX) && !(u->ier & IER_TX))
			u->tx_due = true;
		u->ier = v & 0x0f;
		break;
	case IIR_FCR:
		fcr_write(u, v);
		break;
	case LCR:
		u->lcr = v;
		break;
	case MCR:
		u->mcr = v & 0x1f;
		modem(u);
		pull(u);
		break;
	case SCR:
		u->scr = v;
		break;
	default: /* LSR and MSR are for factory tests only */
		break;
	}
}

static uint64_t uart_read(void *dev, uint64_t off, unsigned size)
{
	struct uart *u = dev;
	uint8_t v = off < 8 ? reg_read(u, (unsigned)off) : 0;

	update(u);
	return v;
}

static void uart_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
	struct uart *u = dev;

	if (off < 8)
		reg_write(u, (unsigned)off, (uint8_t)val);
	update(u);
}

static const struct bus_ops uart_ops = {.read = uart_read, .write = uart_write};

static int uart_realize(struct device *d, const void *opts, struct err *e)
{
	struct uart *u = (struct uart *)d;
	const struct uart_opts *o = opts;
	int rc;

	u->irq = o->irq;
	u->chardev = o->chardev;
	u->region = (struct bus_region){.name = "uart",
		.ops = &uart_ops,
		.dev = u,
		.lock = &d->lock,
		.space = o->space,
		.base = o->base,
		.len = o->space == BUS_PIO ? UART_PORTS : UART_SIZE};
	rc = bus_claim(d->env->bus, &u->region, e);
	if (!rc && u->chardev)
		chardev_attach_front(
			u->chardev, &(struct chardev_front){.input = on_input, .ctx = u});
	return rc;
}

static void uart_unrealize(struct device *d)
{
	struct uart *u = (struct uart *)d;

	if (u->chardev)
		chardev_attach_front(u->chardev, NULL);
	bus_release(d->env->bus, &u->region);
}

static void uart_reset(struct device *d)
{
	struct uart *u = (struct uart *)d;

	pthread_mutex_lock(&d->lock);
	u->ier = u->fcr = u->lcr = u->mcr = u->scr = u->dlm = 0;
	u->dll = 12; /* 9600 baud; nobody can tell */
	u->overrun = false;
	u->tx_due = true;
	u->rx_count = 0;
	modem(u);
	u->msr &= (uint8_t)~MSR_DELTA;
	pull(u);
	update(u);
	pthread_mutex_unlock(&d->lock);
}

static int uart_post_load(void *obj, unsigned version, struct err *e)
{
	struct uart *u = obj;

	if (u->rx_count > FIFO || (u->ier & 0xf0) || (u->mcr & 0xe0) || (u->fcr & ~FCR_KEEP))
		return err_set(e, -EINVAL, "UART: impossible register values in the stream");
	update(u);
	return 0;
}

static const struct state_field uart_fields[] = {
	STATE_U8(struct uart, ier, 1),
	STATE_U8(struct uart, fcr, 1),
	STATE_U8(struct uart, lcr, 1),
	STATE_U8(struct uart, mcr, 1),
	STATE_U8(struct uart, msr, 1),
	STATE_U8(struct uart, scr, 1),
	STATE_U8(struct uart, dll, 1),
	STATE_U8(struct uart, dlm, 1),
	STATE_BOOL(struct uart, overrun, 1),
	STATE_BOOL(struct uart, tx_due, 1),
	STATE_BYTES(struct uart, rx, 1),
	STATE_U8(struct uart, rx_count, 1),
	STATE_U64(struct uart, tx_total, 1),
	STATE_U64(struct uart, rx_total, 1),
	STATE_END,
};
static const struct state_desc uart_state = {
	"uart-16550", 1, uart_fields, .post_load = uart_post_load};

static void uart_stats(struct device *d, struct json_t *into)
{
	struct uart *u = (struct uart *)d;
	struct chardev_stat st = {0};

	if (u->chardev)
		chardev_stat(u->chardev, &st);
	pthread_mutex_lock(&d->lock);
	json_object_set_new(into, "tx_bytes", json_integer((json_int_t)u->tx_total));
	json_object_set_new(into, "rx_bytes", json_integer((json_int_t)u->rx_total));
	pthread_mutex_unlock(&d->lock);
	json_object_set_new(into, "lost_bytes", json_integer((json_int_t)st.lost));
}

const struct device_class uart_class = {
	.name = "uart-16550",
	.help = "serial port (16550A)",
	.size = sizeof(struct uart),
	.realize = uart_realize,
	.unrealize = uart_unrealize,
	.reset = uart_reset,
	.state = &uart_state,
	.stats = uart_stats,
};
