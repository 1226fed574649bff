#define _GNU_SOURCE
#include "shim.h"

#include <stdio.h>
#include <string.h>

#include <rte_dev.h>
#include <rte_ether.h>
#include <rte_log.h>
#include <rte_version.h>

/* Rust reads and writes these fields at the offsets in shim.h, with these widths. */
#define FIELD_IS(field, bytes) \
	_Static_assert(sizeof(((struct rte_mbuf *)0)->field) == (bytes), #field " has another width")
FIELD_IS(buf_addr, sizeof(void *));
FIELD_IS(data_off, 2);
FIELD_IS(nb_segs, 2);
FIELD_IS(ol_flags, 8);
FIELD_IS(pkt_len, 4);
FIELD_IS(data_len, 2);
FIELD_IS(vlan_tci, 2);
FIELD_IS(buf_len, 2);

#if RTE_VERSION < RTE_VERSION_NUM(22, 11, 0, 0)
#error "DPDK 22.11 or later is needed"
#endif

/* What this thread's DPDK calls first complained about since it last asked. */
static __thread char complaint[256];

static ssize_t log_write(void *cookie, const char *text, size_t length)
{
	(void)cookie;
	int level = rte_log_cur_msg_loglevel();
	if (level > 0 && level <= (int)RTE_LOG_ERR && complaint[0] == '\0') {
		const char *end = memchr(text, '\n', length);
		size_t kept = end ? (size_t)(end - text) : length;
		snprintf(complaint, sizeof(complaint), "%.*s", (int)kept, text);
	}
	return (ssize_t)fwrite(text, 1, length, stderr);
}

int shim_log_open(void)
{
	cookie_io_functions_t functions = { .write = log_write };
	FILE *stream = fopencookie(NULL, "w", functions);
	if (stream == NULL)
		return -1;
	setvbuf(stream, NULL, _IOLBF, BUFSIZ);
	return rte_openlog_stream(stream);
}

size_t shim_log_take(char *into, size_t room)
{
	size_t length = strlen(complaint);
	if (length > room)
		length = room;
	memcpy(into, complaint, length);
	complaint[0] = '\0';
	return length;
}

int shim_errno(void)
{
	return rte_errno;
}

struct rte_mbuf *shim_mbuf_alloc(struct rte_mempool *pool)
{
	return rte_pktmbuf_alloc(pool);
}

void shim_mbuf_free(struct rte_mbuf *frame)
{
	rte_pktmbuf_free(frame);
}

void shim_mbuf_unchain(struct rte_mbuf *frame)
{
	struct rte_mbuf *rest = frame->next;
	frame->next = NULL;
	frame->nb_segs = 1;
	frame->pkt_len = frame->data_len;
	rte_pktmbuf_free(rest);
}

uint16_t shim_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **into, uint16_t room)
{
	return rte_eth_rx_burst(port, queue, into, room);
}

uint16_t shim_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **from, uint16_t count)
{
	return rte_eth_tx_burst(port, queue, from, count);
}

uint16_t shim_port_next(uint16_t from)
{
	uint64_t port = rte_eth_find_next_owned_by(from, RTE_ETH_DEV_NO_OWNER);
	return port < RTE_MAX_ETHPORTS ? (uint16_t)port : UINT16_MAX;
}

int shim_port_info(uint16_t port, struct shim_port_info *info)
{
	struct rte_eth_dev_info found;
	int failed = rte_eth_dev_info_get(port, &found);
	if (failed)
		return failed;
	memset(info, 0, sizeof(*info));
	snprintf(info->driver, sizeof(info->driver), "%s", found.driver_name ? found.driver_name : "");
	snprintf(info->device, sizeof(info->device), "%s", found.device ? rte_dev_name(found.device) : "");
	info->max_receive_queues = found.max_rx_queues;
	info->max_transmit_queues = found.max_tx_queues;
	info->min_mtu = found.min_mtu;
	info->max_mtu = found.max_mtu;
	return 0;
}

int shim_port_configure(uint16_t port, const struct shim_port_settings *settings)
{
	struct rte_eth_dev_info found;
	int failed = rte_eth_dev_info_get(port, &found);
	if (failed)
		return failed;
	struct rte_eth_conf wanted = { .rxmode = { .mtu = settings->mtu } };
	uint64_t spread = (RTE_ETH_RSS_IP | RTE_ETH_RSS_TCP | RTE_ETH_RSS_UDP) & found.flow_type_rss_offloads;
	if (settings->receive_queues > 1 && spread != 0) {
		wanted.rxmode.mq_mode = RTE_ETH_MQ_RX_RSS;
		wanted.rx_adv_conf.rss_conf.rss_hf = spread;
	}
	return rte_eth_dev_configure(port, settings->receive_queues, settings->transmit_queues, &wanted);
}

int shim_port_queues(uint16_t port, const struct shim_port_settings *settings,
		     struct rte_mempool *pool)
{
	uint16_t receive = settings->receive_descriptors;
	uint16_t transmit = settings->transmit_descriptors;
	int failed = rte_eth_dev_adjust_nb_rx_tx_desc(port, &receive, &transmit);
	if (failed)
		return failed;
	int node = rte_eth_dev_socket_id(port);
	for (uint16_t queue = 0; queue < settings->receive_queues; queue++) {
		failed = rte_eth_rx_queue_setup(port, queue, receive, node, NULL, pool);
		if (failed)
			return failed;
	}
	for (uint16_t queue = 0; queue < settings->transmit_queues; queue++) {
		failed = rte_eth_tx_queue_setup(port, queue, transmit, node, NULL);
		if (failed)
			return failed;
	}
	return 0;
}

int shim_port_mac(uint16_t port, uint8_t mac[6])
{
	struct rte_ether_addr found;
	int failed = rte_eth_macaddr_get(port, &found);
	if (failed == 0)
		memcpy(mac, found.addr_bytes, sizeof(found.addr_bytes));
	return failed;
}

int shim_port_set_mac(uint16_t port, const uint8_t mac[6])
{
	struct rte_ether_addr wanted;
	memcpy(wanted.addr_bytes, mac, sizeof(wanted.addr_bytes));
	return rte_eth_dev_default_mac_addr_set(port, &wanted);
}

int shim_port_link_up(uint16_t port)
{
	struct rte_eth_link link = { 0 };
	int failed = rte_eth_link_get_nowait(port, &link);
	return failed ? failed : link.link_status == RTE_ETH_LINK_UP;
}

int shim_port_statistics(uint16_t port, struct shim_port_statistics *statistics)
{
	struct rte_eth_stats found;
	int failed = rte_eth_stats_get(port, &found);
	if (failed)
		return failed;
	*statistics = (struct shim_port_statistics){
		.received = found.ipackets,
		.received_bytes = found.ibytes,
		.transmitted = found.opackets,
		.transmitted_bytes = found.obytes,
		.missed = found.imissed,
		.no_buffer = found.rx_nombuf,
		.receive_errors = found.ierrors,
		.transmit_errors = found.oerrors,
	};
	return 0;
}

struct rte_ring *shim_ring_create(const char *name, unsigned int frames)
{
	return rte_ring_create(name, frames, SOCKET_ID_ANY, RING_F_SP_ENQ | RING_F_SC_DEQ | RING_F_EXACT_SZ);
}

void shim_ring_free(struct rte_ring *ring)
{
	void *frame;
	while (rte_ring_dequeue(ring, &frame) == 0)
		rte_pktmbuf_free(frame);
	rte_ring_free(ring);
}
