/* What Rust cannot reach by linking: DPDK's inline functions and macros, as symbols, and the
 * places of the few buffer fields that are read on every frame, as constants worked out by the
 * C compiler from the headers that are installed. No DPDK structure is described in Rust. */
#pragma once
#include <stddef.h>
#include <stdint.h>

#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_eth_ring.h>
#include <rte_ethdev.h>
#include <rte_launch.h>
#include <rte_lcore.h>
#include <rte_malloc.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_ring.h>

/* Byte offsets inside `struct rte_mbuf` and some of DPDK's constants; shim.c asserts the width of each field. */
enum shim_constant {
	SHIM_MBUF_BUF_ADDR = offsetof(struct rte_mbuf, buf_addr),
	SHIM_MBUF_DATA_OFF = offsetof(struct rte_mbuf, data_off),
	SHIM_MBUF_NB_SEGS = offsetof(struct rte_mbuf, nb_segs),
	SHIM_MBUF_OL_FLAGS = offsetof(struct rte_mbuf, ol_flags),
	SHIM_MBUF_PKT_LEN = offsetof(struct rte_mbuf, pkt_len),
	SHIM_MBUF_DATA_LEN = offsetof(struct rte_mbuf, data_len),
	SHIM_MBUF_VLAN_TCI = offsetof(struct rte_mbuf, vlan_tci),
	SHIM_MBUF_BUF_LEN = offsetof(struct rte_mbuf, buf_len),
	SHIM_HEADROOM = RTE_PKTMBUF_HEADROOM,
	SHIM_RX_VLAN_STRIPPED = RTE_MBUF_F_RX_VLAN_STRIPPED,
	SHIM_CACHE_LINE = RTE_CACHE_LINE_SIZE,
};

/* The kinds of packet that a card hashes, as far as the data plane can tell them apart. */
enum shim_hashes {
	SHIM_HASHES_TCP4 = 1,
	SHIM_HASHES_UDP4 = 2,
	SHIM_HASHES_IP4 = 4,
	SHIM_HASHES_TCP6 = 8,
	SHIM_HASHES_UDP6 = 16,
	SHIM_HASHES_IP6 = 32,
};

/* The longest hash key (i40e, ice, iavf), and the largest redirection table (ice has 2048). */
#define SHIM_KEY 52
#define SHIM_TABLE 4096

/* Diagnostics go to stderr alone (not to syslog); the first error is kept for the caller. */
int shim_log_open(void);
/* Copies the calling thread's first error message since the last call, and forgets it. */
size_t shim_log_take(char *into, size_t room);
int shim_errno(void);

struct rte_mbuf *shim_mbuf_alloc(struct rte_mempool *pool);
/* All of them or none; whether it was all. */
int shim_mbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **into, unsigned int count);
void shim_mbuf_free(struct rte_mbuf *frame);
void shim_mbuf_free_bulk(struct rte_mbuf **frames, unsigned int count);
/* Gives back every segment but the first. */
void shim_mbuf_unchain(struct rte_mbuf *frame);

uint16_t shim_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **into, uint16_t room);
uint16_t shim_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **from, uint16_t count);

struct shim_port_info {
	char driver[64];
	char device[64];
	uint16_t max_receive_queues;
	uint16_t max_transmit_queues;
	uint16_t min_mtu;
	uint16_t max_mtu;
};
struct shim_port_settings {
	uint16_t mtu;
	uint16_t receive_queues;
	uint16_t transmit_queues;
	uint16_t receive_descriptors;
	uint16_t transmit_descriptors;
	uint8_t hash_key[SHIM_KEY]; /* a card gets as much of it as it takes */
};
struct shim_port_spreading {
	uint8_t hashes; /* of enum shim_hashes */
	uint8_t key_length;
	uint8_t key[SHIM_KEY];
	uint16_t entries;
	uint16_t table[SHIM_TABLE];
};
struct shim_port_link {
	uint8_t up;
	uint32_t speed; /* Mbit/s; 0 when unknown */
};
struct shim_port_statistics {
	uint64_t received, received_bytes, transmitted, transmitted_bytes;
	uint64_t missed, no_buffer, receive_errors, transmit_errors;
};

/* The first port at or after `from`, or RTE_MAX_ETHPORTS and beyond when there is none. */
uint16_t shim_port_next(uint16_t from);
int shim_port_info(uint16_t port, struct shim_port_info *info);
int shim_port_configure(uint16_t port, const struct shim_port_settings *settings);
int shim_port_queues(uint16_t port, const struct shim_port_settings *settings,
		     struct rte_mempool *pool);
/* Gives the key to drivers that did not take it when configured, and points the redirection table at
 * all receive queues in turn. Of either, a card may do something else. -ENOTSUP if it hashes nothing. */
int shim_port_spread(uint16_t port, const struct shim_port_settings *settings);
/* What the card says of its hashing; -ENOTSUP if it does not say all of it. */
int shim_port_spreading(uint16_t port, struct shim_port_spreading *spreading);
int shim_port_mac(uint16_t port, uint8_t mac[6]);
int shim_port_set_mac(uint16_t port, const uint8_t mac[6]);
int shim_port_link(uint16_t port, struct shim_port_link *link);
int shim_port_statistics(uint16_t port, struct shim_port_statistics *statistics);

/* A ring for `frames` frames, one producer and one consumer; NULL with rte_errno set. */
struct rte_ring *shim_ring_create(const char *name, unsigned int frames);
/* Gives back the frames that are left in it, too. */
void shim_ring_free(struct rte_ring *ring);
