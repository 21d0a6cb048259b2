/*
 * ADDRESS: network interfaces of a copy get hardware addresses of their own, and IPv4 addresses by rule.
 *
 * The rule: copy number n takes the n-th address behind the one that the machine had in its network, leaving out the network's first and last, the
 * gateway and the machine's own, and going on from the beginning where it ends. IPv6 addresses that are made from hardware addresses
 * follow by themselves.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <net/route.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "guest/agent.h"

#define INTERFACES 16u

/* The interface with this hardware address. */
static bool find(int fd, const uint8_t mac[6], struct ifreq *out)
{
	struct if_nameindex *list = if_nameindex();
	bool found = false;

	for (struct if_nameindex *i = list; !found && i && i->if_name; i++) {
		struct ifreq r = {0};

		snprintf(r.ifr_name, sizeof(r.ifr_name), "%s", i->if_name);
		if (ioctl(fd, SIOCGIFHWADDR, &r) || r.ifr_hwaddr.sa_family != ARPHRD_ETHER ||
			memcmp(r.ifr_hwaddr.sa_data, mac, 6))
			continue;
		*out = r;
		found = true;
	}
	if_freenameindex(list);
	return found;
}

static int set_mac(int fd, struct ifreq *r, const uint8_t mac[6])
{
	short flags;

	r->ifr_hwaddr.sa_family = ARPHRD_ETHER;
	memcpy(r->ifr_hwaddr.sa_data, mac, 6);
	if (!ioctl(fd, SIOCSIFHWADDR, r))
		return 0;
	if (errno != EBUSY)
		return errno;
	/* A driver that cannot while the interface is up. */
	struct ifreq up = *r;

	if (ioctl(fd, SIOCGIFFLAGS, &up))
		return errno;
	flags = up.ifr_flags;
	up.ifr_flags = (short)(flags & ~IFF_UP);
	if (ioctl(fd, SIOCSIFFLAGS, &up) || ioctl(fd, SIOCSIFHWADDR, r))
		return errno;
	up.ifr_flags = flags;
	return ioctl(fd, SIOCSIFFLAGS, &up) ? errno : 0;
}

/* The gateway of the default route through the interface; 0: it has none. Network byte order. */
static uint32_t gateway(const char *name)
{
	char line[256], dev[IFNAMSIZ + 1];
	unsigned dest, gw, found = 0;
	FILE *f = fopen("/proc/net/route", "re");

	while (f && !found && fgets(line, sizeof(line), f))
		if (sscanf(line, "%16s %x %x", dev, &dest, &gw) == 3 && !strcmp(dev, name) && !dest)
			found = gw;
	if (f)
		fclose(f);
	return found;
}

static uint32_t in_of(const struct ifreq *r)
{
	return ntohl(((const struct sockaddr_in *)(const void *)&r->ifr_addr)->sin_addr.s_addr);
}

static void put_in(struct sockaddr *sa, uint32_t addr)
{
	*(struct sockaddr_in *)(void *)sa = (struct sockaddr_in){
		.sin_family = AF_INET, .sin_addr.s_addr = htonl(addr)};
}

/* Host byte order. 0: the network has no room for so many. */
static uint32_t nth(uint32_t addr, uint32_t mask, uint32_t gw, uint32_t n)
{
	uint32_t hosts = ~mask, a = addr;

	for (uint32_t tries = 0; n && tries <= hosts; tries++) {
		a = (addr & mask) | ((a + 1) & ~mask);
		if ((a & ~mask) && (a & ~mask) != hosts && a != addr && a != gw)
			n--;
	}
	return n ? 0 : a;
}

static int set_ip(int fd, const char *name, uint32_t n)
{
	struct ifreq addr = {0}, mask = {0};
	struct rtentry route = {.rt_flags = RTF_UP | RTF_GATEWAY};
	uint32_t gw = gateway(name), to;
	char dev[IFNAMSIZ];

	snprintf(addr.ifr_name, sizeof(addr.ifr_name), "%s", name);
	mask = addr;
	if (ioctl(fd, SIOCGIFADDR, &addr))
		return errno == EADDRNOTAVAIL ? 0 : errno;
	if (ioctl(fd, SIOCGIFNETMASK, &mask))
		return errno;
	to = nth(in_of(&addr), in_of(&mask), ntohl(gw), n);
	if (!to)
		return EADDRNOTAVAIL;
	put_in(&addr.ifr_addr, to);
	if (ioctl(fd, SIOCSIFADDR, &addr) || ioctl(fd, SIOCSIFNETMASK, &mask))
		return errno;
	if (!gw)
		return 0;
	/* It went with the address. */
	put_in(&route.rt_dst, 0);
	put_in(&route.rt_genmask, 0);
	put_in(&route.rt_gateway, ntohl(gw));
	snprintf(dev, sizeof(dev), "%s", name);
	route.rt_dev = dev;
	return ioctl(fd, SIOCADDRT, &route) && errno != EEXIST ? errno : 0;
}

void serve_address(struct peer *p)
{
	uint32_t number = agent_get_u32(&p->in), n = agent_get_u32(&p->in), changed = 0;
	uint8_t mac[INTERFACES][2][6];
	const char *step = NULL;
	int fd, err = 0;

	if (n > INTERFACES)
		peer_bad(p, "too many interfaces");
	for (uint32_t i = 0; i < 2 * n; i++) {
		size_t len;
		const uint8_t *b = agent_get_bytes(&p->in, &len);

		if (!b || len != 6)
			peer_bad(p, "a hardware address that is none");
		memcpy(mac[i / 2][i % 2], b, 6);
	}
	peer_check(p);
	fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		err = errno;
	for (uint32_t i = 0; !err && i < n; i++) {
		struct ifreq r;

		if (!find(fd, mac[i][0], &r))
			continue; /* a guest without the driver */
		step = "hardware address";
		err = set_mac(fd, &r, mac[i][1]);
		if (!err && number) {
			step = "IPv4 address";
			err = set_ip(fd, r.ifr_name, number);
		}
		changed++;
	}
	if (fd >= 0)
		close(fd);
	if (err)
		peer_error(p, err, "address", step);
	else
		peer_ok(p, changed);
}
