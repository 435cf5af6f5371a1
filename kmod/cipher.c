// SPDX-License-Identifier: GPL-2.0-only
/*
 * What the record protection of each version and cipher looks like
 *
 * Why it exists: nonce, additional data and explicit nonce of RFC 5246, 5288,
 * 6655, 7905 and 8446 are written down once, for both directions.
 *
 *	            nonce (12 bytes)            on the wire   additional data
 *	1.2 AES     salt[4] || explicit[8]      explicit      seq type ver plainlen
 *	1.2 ChaCha  iv[12] xor seq              -             seq type ver plainlen
 *	1.3         (salt || iv)[12] xor seq    -             the 5 header bytes
 *
 * Memory: struct alg_tls_dir owns tfm and req; the request is heap memory,
 * because its aad and iv are put into scatterlists that a device may map.
 */
#include <linux/slab.h>
#include <linux/siphash.h>

#include "alg_tls.h"

/*
 * CRYPTO_ALG_ASYNC is deliberately not masked: the fast drivers of x86 and
 * arm64 are flagged async although they complete at once in process context,
 * and the mask would select an implementation that is some 18 times slower.
 */
static const struct alg_tls_cipher alg_tls_ciphers[] = {
	{
		.name = "gcm(aes)", .type = TLS_CIPHER_AES_GCM_128,
		.key = TLS_CIPHER_AES_GCM_128_KEY_SIZE,
		.salt = TLS_CIPHER_AES_GCM_128_SALT_SIZE,
		.iv = TLS_CIPHER_AES_GCM_128_IV_SIZE,
		.explicit = ALG_TLS_EXPLICIT,
	}, {
		.name = "gcm(aes)", .type = TLS_CIPHER_AES_GCM_256,
		.key = TLS_CIPHER_AES_GCM_256_KEY_SIZE,
		.salt = TLS_CIPHER_AES_GCM_256_SALT_SIZE,
		.iv = TLS_CIPHER_AES_GCM_256_IV_SIZE,
		.explicit = ALG_TLS_EXPLICIT,
	}, {
		.name = "ccm(aes)", .type = TLS_CIPHER_AES_CCM_128,
		.key = TLS_CIPHER_AES_CCM_128_KEY_SIZE,
		.salt = TLS_CIPHER_AES_CCM_128_SALT_SIZE,
		.iv = TLS_CIPHER_AES_CCM_128_IV_SIZE,
		.explicit = ALG_TLS_EXPLICIT,
		.ccm = true,
	}, {
		.name = "rfc7539(chacha20,poly1305)",
		.type = TLS_CIPHER_CHACHA20_POLY1305,
		.key = TLS_CIPHER_CHACHA20_POLY1305_KEY_SIZE,
		.salt = TLS_CIPHER_CHACHA20_POLY1305_SALT_SIZE,
		.iv = TLS_CIPHER_CHACHA20_POLY1305_IV_SIZE,
	},
};

/* First byte of a CCM counter block: length field of 3 bytes, less one. */
#define ALG_TLS_CCM_B0		2

static siphash_key_t alg_tls_digest_key __read_mostly;

void alg_tls_cipher_init(void)
{
	get_random_bytes(&alg_tls_digest_key, sizeof(alg_tls_digest_key));
}

static const struct alg_tls_cipher *alg_tls_cipher_find(u16 type)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(alg_tls_ciphers); i++)
		if (alg_tls_ciphers[i].type == type)
			return &alg_tls_ciphers[i];
	return NULL;
}

static const struct alg_tls_cipher *
alg_tls_cipher_allowed(const struct alg_tls_name *name, u16 type)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(name->ciphers); i++)
		if (name->ciphers[i] && name->ciphers[i] == type)
			return alg_tls_cipher_find(type);
	return NULL;
}

static unsigned int alg_tls_req_size(struct crypto_aead *tfm)
{
	return sizeof(struct alg_tls_req) + crypto_aead_reqsize(tfm);
}

/* The memory is charged to the op socket. */
int alg_tls_dir_make(struct alg_tls_ctx *ctx, const u8 *info, unsigned int len,
		     struct alg_tls_dir *d)
{
	const struct tls_crypto_info *head = (const void *)info;
	const struct alg_tls_cipher *c;
	const u8 *iv, *key, *salt, *seq;
	struct crypto_aead *tfm;
	struct alg_tls_req *req;
	unsigned int used;
	int err;

	memset(d, 0, sizeof(*d));
	if (head->version != TLS_1_2_VERSION &&
	    head->version != TLS_1_3_VERSION)
		return -EINVAL;
	c = alg_tls_cipher_allowed(ctx->name, head->cipher_type);
	if (!c)
		return -EINVAL;

	iv = info + sizeof(*head);
	key = iv + c->iv;
	salt = key + c->key;
	seq = salt + c->salt;
	used = seq + ALG_TLS_SEQ - info;
	if (used > len || memchr_inv(info + used, 0, len - used))
		return -EINVAL;

	tfm = crypto_alloc_aead(c->name, 0, 0);
	if (IS_ERR(tfm))
		return PTR_ERR(tfm);
	err = crypto_aead_setauthsize(tfm, ALG_TLS_TAG);
	if (err)
		goto err_free_tfm;
	err = crypto_aead_setkey(tfm, key, c->key);
	if (err)
		goto err_free_tfm;

	err = -ENOMEM;
	req = sock_kmalloc(ctx->op, alg_tls_req_size(tfm), GFP_KERNEL);
	if (!req)
		goto err_free_tfm;
	memset(req, 0, sizeof(*req));
	crypto_init_wait(&req->wait);
	aead_request_set_tfm(&req->aead, tfm);
	aead_request_set_callback(&req->aead, CRYPTO_TFM_REQ_MAY_SLEEP |
				  CRYPTO_TFM_REQ_MAY_BACKLOG,
				  crypto_req_done, &req->wait);

	d->on = true;
	d->version = head->version;
	d->cipher = c;
	d->tfm = tfm;
	d->req = req;
	memcpy(d->nonce, salt, c->salt);
	memcpy(d->nonce + c->salt, iv, c->iv);
	memcpy(d->seq, seq, ALG_TLS_SEQ);
	d->digest = siphash(key, c->key, &alg_tls_digest_key);
	return 0;

err_free_tfm:
	crypto_free_aead(tfm);
	return err;
}

void alg_tls_dir_free(struct alg_tls_ctx *ctx, struct alg_tls_dir *d)
{
	if (d->req)
		sock_kzfree_s(ctx->op, d->req, alg_tls_req_size(d->tfm));
	if (d->tfm)
		crypto_free_aead(d->tfm);
	memzero_explicit(d, sizeof(*d));
}

bool alg_tls_seq_ok(const struct alg_tls_dir *d)
{
	return get_unaligned_be64(d->seq) != U64_MAX;
}

void alg_tls_seq_next(struct alg_tls_dir *d)
{
	u8 *explicit = d->nonce + ALG_TLS_NONCE - ALG_TLS_EXPLICIT;

	if (alg_tls_planted("number")) /* no carry */
		put_unaligned_be32(get_unaligned_be32(d->seq + 4) + 1,
				   d->seq + 4);
	else
		put_unaligned_be64(get_unaligned_be64(d->seq) + 1, d->seq);
	if (alg_tls_explicit(d))
		put_unaligned_be64(get_unaligned_be64(explicit) + 1, explicit);
}

/* @plain: text bytes without the inner type byte, for TLS 1.2's AAD. */
static int alg_tls_crypt(struct alg_tls_dir *d, bool seal, const u8 *hdr,
			 const u8 *nonce, struct scatterlist *src,
			 struct scatterlist *dst, unsigned int len,
			 unsigned int plain)
{
	struct alg_tls_req *req = d->req;
	unsigned int aad, i;
	u8 *iv = req->iv;

	memset(req->iv, 0, sizeof(req->iv));
	if (d->cipher->ccm)
		*iv++ = ALG_TLS_CCM_B0;
	memcpy(iv, d->nonce, ALG_TLS_NONCE);
	if (alg_tls_explicit(d)) {
		if (nonce)
			memcpy(iv + ALG_TLS_NONCE - ALG_TLS_EXPLICIT, nonce,
			       ALG_TLS_EXPLICIT);
	} else {
		for (i = 0; i < ALG_TLS_SEQ; i++)
			iv[ALG_TLS_NONCE - ALG_TLS_SEQ + i] ^= d->seq[i];
	}

	if (d->version == TLS_1_3_VERSION) {
		memcpy(req->aad, hdr, ALG_TLS_HDR);
		aad = ALG_TLS_HDR;
	} else {
		memcpy(req->aad, d->seq, ALG_TLS_SEQ);
		memcpy(req->aad + ALG_TLS_SEQ, hdr, 3);
		put_unaligned_be16(plain, req->aad + ALG_TLS_SEQ + 3);
		aad = ALG_TLS_AAD_MAX;
	}
	sg_set_buf(&src[0], req->aad, aad);
	sg_set_buf(&dst[0], req->aad, aad);

	aead_request_set_ad(&req->aead, aad);
	aead_request_set_crypt(&req->aead, src, dst, len, req->iv);
	return crypto_wait_req(seal ? crypto_aead_encrypt(&req->aead) :
				      crypto_aead_decrypt(&req->aead),
			       &req->wait);
}

int alg_tls_seal(struct alg_tls_dir *d, const u8 *hdr, struct scatterlist *src,
		 struct scatterlist *dst, unsigned int len)
{
	return alg_tls_crypt(d, true, hdr, NULL, src, dst, len, len);
}

int alg_tls_open(struct alg_tls_dir *d, const u8 *hdr, const u8 *nonce,
		 struct scatterlist *src, struct scatterlist *dst,
		 unsigned int len)
{
	int err;

	if (len < ALG_TLS_TAG)
		return -EINVAL;	/* the caller has checked the length */
	err = alg_tls_crypt(d, false, hdr, nonce, src, dst, len,
			    len - ALG_TLS_TAG);
	return err;
}
