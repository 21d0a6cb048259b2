/*
 * uart.h: a 16550A serial port on a character channel.
 *
 * Eight byte registers; accesses of 1, 2, 4 and 8 bytes, naturally aligned, reach the one register at their
 * offset. Transmission takes no time: the transmitter is always empty, and bytes go to the channel, which
 * drops its oldest byte rather than wait (chardev_write_lossy). Reception is flow-controlled: the FIFO takes from the
 * channel only what fits, so nothing is lost on the way in. Line settings are kept and have no effect; the character
 * timeout comes at once.
 *
 * Source: National Semiconductor PC16550D data sheet (June 1995).
 */
#ifndef LODGE_DEVICE_UART_H
#define LODGE_DEVICE_UART_H

#include <stdint.h>

#include "bus/bus.h"

struct chardev;

#define UART_SIZE 0x100ull
#define UART_PORTS 8ull

struct uart_opts {
	uint64_t base;
	struct irq_line irq;
	struct chardev *chardev; /* NULL: nobody listens. Must outlive the device */
	enum bus_space space;
};

#endif
