#define _GNU_SOURCE
#include "shim.h"

#include <stdbool.h>
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

int shim_mbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **into, unsigned int count)
{
	return rte_pktmbuf_alloc_bulk(pool, into, count) == 0;
}

void shim_mbuf_free_bulk(struct rte_mbuf **frames, unsigned int count)
{
	rte_pktmbuf_free_bulk(frames, count);
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

/* IPv6's _EX kinds are left out: they hash addresses out of extension headers. */
static const struct {
	uint64_t dpdk;
	uint8_t ours;
} kinds[] = {
	{ RTE_ETH_RSS_NONFRAG_IPV4_TCP, SHIM_HASHES_TCP4 },
	{ RTE_ETH_RSS_NONFRAG_IPV4_UDP, SHIM_HASHES_UDP4 },
	{ RTE_ETH_RSS_NONFRAG_IPV4_OTHER | RTE_ETH_RSS_IPV4, SHIM_HASHES_IP4 },
	{ RTE_ETH_RSS_FRAG_IPV4, 0 },
	{ RTE_ETH_RSS_NONFRAG_IPV6_TCP, SHIM_HASHES_TCP6 },
	{ RTE_ETH_RSS_NONFRAG_IPV6_UDP, SHIM_HASHES_UDP6 },
	{ RTE_ETH_RSS_NONFRAG_IPV6_OTHER | RTE_ETH_RSS_IPV6, SHIM_HASHES_IP6 },
	{ RTE_ETH_RSS_FRAG_IPV6, 0 },
};

static uint64_t all_kinds(void)
{
	uint64_t all = 0;
	for (size_t kind = 0; kind < RTE_DIM(kinds); kind++)
		all |= kinds[kind].dpdk;
	return all;
}

/* Some drivers leave the size at 0 and take 40 bytes, as DPDK says of keys without a length. */
static uint8_t key_size(const struct rte_eth_dev_info *info)
{
	return info->hash_key_size ? info->hash_key_size : 40;
}

/* A driver that counts no 802.1Q tag in its frames' length would refuse the longest with a tag. */
static uint16_t mtu_with_tag(uint16_t mtu, const struct rte_eth_dev_info *info)
{
	bool counts = info->max_mtu != UINT16_MAX && info->max_rx_pktlen > info->max_mtu;
	uint32_t framing = info->max_rx_pktlen - info->max_mtu;
	if (!counts || framing >= RTE_ETHER_HDR_LEN + RTE_VLAN_HLEN + RTE_ETHER_CRC_LEN)
		return mtu;
	uint32_t with_tag = (uint32_t)mtu + RTE_VLAN_HLEN;
	return with_tag < info->max_mtu ? (uint16_t)with_tag : info->max_mtu;
}

int shim_port_configure(uint16_t port, const struct shim_port_settings *settings)
{
	/* Drivers read the key again whenever the port starts, where DPDK's copy points. */
	static uint8_t keys[RTE_MAX_ETHPORTS][SHIM_KEY];

	struct rte_eth_dev_info found;
	int failed = rte_eth_dev_info_get(port, &found);
	if (failed)
		return failed;
	/* No offload is asked for, so tags stay in their frames and no VLAN is filtered out. */
	struct rte_eth_conf wanted = { .rxmode = { .mtu = mtu_with_tag(settings->mtu, &found) } };
	uint64_t spread = all_kinds() & found.flow_type_rss_offloads;
	if (settings->receive_queues > 1 && spread != 0) {
		wanted.rxmode.mq_mode = RTE_ETH_MQ_RX_RSS;
		wanted.rx_adv_conf.rss_conf.rss_hf = spread;
		if (key_size(&found) <= SHIM_KEY) {
			memcpy(keys[port], settings->hash_key, SHIM_KEY);
			wanted.rx_adv_conf.rss_conf.rss_key = keys[port];
			wanted.rx_adv_conf.rss_conf.rss_key_len = key_size(&found);
		}
	}
	failed = rte_eth_dev_configure(port, settings->receive_queues, settings->transmit_queues, &wanted);
	if (failed == 0 || wanted.rx_adv_conf.rss_conf.rss_key == NULL)
		return failed;
	/* A virtual function may have to live with its physical function's key. */
	wanted.rx_adv_conf.rss_conf.rss_key = NULL;
	wanted.rx_adv_conf.rss_conf.rss_key_len = 0;
	int without = rte_eth_dev_configure(port, settings->receive_queues, settings->transmit_queues, &wanted);
	return without ? failed : 0;
}

#define GROUPS (SHIM_TABLE / RTE_ETH_RETA_GROUP_SIZE)

/* How many entries the redirection table has, each of them marked as meant. */
static int mark_table(uint16_t port, struct rte_eth_rss_reta_entry64 groups[GROUPS])
{
	struct rte_eth_dev_info found;
	int failed = rte_eth_dev_info_get(port, &found);
	if (failed)
		return failed;
	if (found.reta_size == 0 || found.reta_size > SHIM_TABLE)
		return -ENOTSUP;
	memset(groups, 0, GROUPS * sizeof(groups[0]));
	for (uint16_t entry = 0; entry < found.reta_size; entry++)
		groups[entry / RTE_ETH_RETA_GROUP_SIZE].mask |= RTE_BIT64(entry % RTE_ETH_RETA_GROUP_SIZE);
	return found.reta_size;
}

static void set_key(uint16_t port, const struct rte_eth_dev_info *info, const uint8_t wanted[SHIM_KEY])
{
	uint8_t key[SHIM_KEY] = { 0 }, size = key_size(info);
	if (size > SHIM_KEY)
		return;
	struct rte_eth_rss_conf hashing = { .rss_key = key, .rss_key_len = size };
	if (rte_eth_dev_rss_hash_conf_get(port, &hashing) == 0 && memcmp(key, wanted, size) == 0)
		return;
	memcpy(key, wanted, SHIM_KEY);
	hashing = (struct rte_eth_rss_conf){
		.rss_key = key,
		.rss_key_len = size,
		.rss_hf = all_kinds() & info->flow_type_rss_offloads,
	};
	rte_eth_dev_rss_hash_update(port, &hashing);
}

int shim_port_spread(uint16_t port, const struct shim_port_settings *settings)
{
	struct rte_eth_dev_info found;
	int failed = rte_eth_dev_info_get(port, &found);
	if (failed)
		return failed;
	if ((all_kinds() & found.flow_type_rss_offloads) == 0)
		return -ENOTSUP;
	set_key(port, &found, settings->hash_key);
	struct rte_eth_rss_reta_entry64 groups[GROUPS];
	int entries = mark_table(port, groups);
	for (int entry = 0; entry < entries; entry++)
		groups[entry / RTE_ETH_RETA_GROUP_SIZE].reta[entry % RTE_ETH_RETA_GROUP_SIZE] =
			(uint16_t)(entry % settings->receive_queues);
	if (entries > 0)
		rte_eth_dev_rss_reta_update(port, groups, (uint16_t)entries);
	return 0;
}

int shim_port_spreading(uint16_t port, struct shim_port_spreading *spreading)
{
	memset(spreading, 0, sizeof(*spreading));
	struct rte_eth_dev_info found;
	int failed = rte_eth_dev_info_get(port, &found);
	if (failed)
		return failed;
	if (key_size(&found) > SHIM_KEY)
		return -ENOTSUP;
	struct rte_eth_rss_conf hashing = { .rss_key = spreading->key, .rss_key_len = key_size(&found) };
	failed = rte_eth_dev_rss_hash_conf_get(port, &hashing);
	if (failed)
		return failed;
#if RTE_VERSION >= RTE_VERSION_NUM(23, 11, 0, 0)
	if (hashing.algorithm != RTE_ETH_HASH_FUNCTION_DEFAULT &&
	    hashing.algorithm != RTE_ETH_HASH_FUNCTION_TOEPLITZ)
		return -ENOTSUP;
#endif
	spreading->key_length = RTE_MIN(key_size(&found), hashing.rss_key_len);
	for (size_t kind = 0; kind < RTE_DIM(kinds); kind++)
		if (hashing.rss_hf & kinds[kind].dpdk)
			spreading->hashes |= kinds[kind].ours;

	struct rte_eth_rss_reta_entry64 groups[GROUPS];
	int entries = mark_table(port, groups);
	if (entries < 0)
		return entries;
	failed = rte_eth_dev_rss_reta_query(port, groups, (uint16_t)entries);
	if (failed)
		return failed;
	spreading->entries = (uint16_t)entries;
	for (int entry = 0; entry < entries; entry++)
		spreading->table[entry] =
			groups[entry / RTE_ETH_RETA_GROUP_SIZE].reta[entry % RTE_ETH_RETA_GROUP_SIZE];
	return 0;
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

int shim_port_link(uint16_t port, struct shim_port_link *link)
{
	struct rte_eth_link found = { 0 };
	int failed = rte_eth_link_get_nowait(port, &found);
	if (failed)
		return failed;
	link->up = found.link_status == RTE_ETH_LINK_UP;
	link->speed = found.link_speed == RTE_ETH_SPEED_NUM_UNKNOWN ? 0 : found.link_speed;
	return 0;
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
