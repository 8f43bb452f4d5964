// The check of a DPoP proof that the product's own grants use. Not a public part of it: the version is pinned, here is the only use.
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { pathToFileURL } from 'node:url';

const lib = dirname(createRequire(import.meta.url).resolve('oidc-provider'));
const { default: validate, checkDpopReplay } = await import(pathToFileURL(join(lib, 'helpers', 'validate_dpop.js')).href);

export async function proofOf(provider, ctx) {
  const proof = await validate(provider, ctx);
  if (proof) await checkDpopReplay(provider, ctx, proof, ctx.oidc.client.clientId);
  return proof;
}
