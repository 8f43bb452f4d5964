// An authorization server for tests: npm oidc-provider with its features switched on, and the token exchange it leaves to its deployer.
// PORT (0: any free one), STATE (a folder: what this writes for the test), KEYS ("b,a": sign with b, publish both), DPOP_NONCE=1,
// NO_TXN=1 (tokens of a login name no task, as those of most servers).
// Prints one line, {"issuer": ...}, when it listens. Everything is in memory but keys and client secrets, which a restart finds again.
import { createServer } from 'node:http';
import { randomBytes, randomUUID } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as jose from 'jose';
import * as oidc from 'oidc-provider';
import { proofOf } from './dpop.mjs';

const { errors } = oidc;
const STATE = process.env.STATE;
const EXCHANGE = 'urn:ietf:params:oauth:grant-type:token-exchange';
const ACCESS_TOKEN = 'urn:ietf:params:oauth:token-type:access_token';
const JWT_TOKEN = 'urn:ietf:params:oauth:token-type:jwt';
const SCOPES = ['tools:read', 'tools:write', 'tools:pay'];
const ALGORITHMS = ['ES256', 'RS256', 'Ed25519'];
const LIFETIME = 300;
const GROUPS = { alice: ['treasury'], bob: ['treasury'], carol: ['sales'] };

// Audiences. An exchange stays at its audience, or goes to one of those that any may go to.
const jwt = (alg) => ({ accessTokenFormat: 'jwt', jwt: { sign: { alg } } });
const RESOURCES = {
  'urn:example:tools': jwt('ES256'),
  'urn:example:tools:rs256': jwt('RS256'),
  'urn:example:tools:ed25519': jwt('Ed25519'),
  'urn:example:other': jwt('ES256'),
  'urn:example:opaque': { accessTokenFormat: 'opaque' },
  'urn:example:bank': { accessTokenFormat: 'opaque' },
  'https://api.acme.example/issues': { accessTokenFormat: 'opaque', accessTokenTTL: 60 },
  'https://api.acme.example/reports': { ...jwt('ES256'), accessTokenTTL: 60 },
};
const ANYBODYS = ['urn:example:opaque', 'urn:example:bank', 'https://api.acme.example/issues', 'https://api.acme.example/reports'];

async function kept(name, make) {
  const path = join(STATE, `${name}.json`);
  if (!existsSync(path)) writeFileSync(path, JSON.stringify(await make()), { mode: 0o600 });
  return JSON.parse(readFileSync(path, 'utf8'));
}

async function keyPair(alg, kid) {
  const { privateKey } = await jose.generateKeyPair(alg, { extractable: true });
  return { ...(await jose.exportJWK(privateKey)), kid, alg, use: 'sig' };
}

const publicOf = ({ d, p, q, dp, dq, qi, ...rest }) => rest;
const secret = () => randomBytes(24).toString('hex');

const keys = [];
for (const generation of (process.env.KEYS || 'a').split(',')) {
  keys.push(...(await kept(`keys-${generation}`, () => Promise.all(ALGORITHMS.map((alg) => keyPair(alg, `${alg.toLowerCase()}-${generation}`))))));
}
const ours = jose.createLocalJWKSet({ keys: keys.map(publicOf) });

// What each client shows: for the test, which reads the same file.
const credentials = await kept('clients', async () => ({
  ui: { secret: secret() },
  orchestrator: { secret: secret() },
  guard: { secret: secret() },
  worker: { jwk: await keyPair('ES256', 'worker-1') },
  'worker-bound': { jwk: await keyPair('ES256', 'worker-bound-1') },
}));

const client = (id, grants, more = {}) => ({
  client_id: id,
  grant_types: grants,
  response_types: [],
  redirect_uris: [],
  authorization_details_types: ['agent_task', 'agent_tool'],
  ...(credentials[id].secret
    ? { client_secret: credentials[id].secret }
    : { token_endpoint_auth_method: 'private_key_jwt', jwks: { keys: [publicOf(credentials[id].jwk)] } }),
  ...more,
});
const CLIENTS = [
  client('ui', ['authorization_code', 'refresh_token'], { response_types: ['code'], redirect_uris: ['http://127.0.0.1:1/cb'] }),
  client('orchestrator', ['client_credentials', EXCHANGE]),
  client('worker', ['client_credentials', EXCHANGE]),
  client('worker-bound', ['client_credentials', EXCHANGE], { dpop_bound_access_tokens: true }),
  client('guard', ['client_credentials', EXCHANGE]),
];

const asked = (ctx) => (ctx.oidc.params.authorization_details ? JSON.parse(ctx.oidc.params.authorization_details) : undefined);
const EXCHANGED = Symbol('exchanged');

function claims(ctx, token) {
  const exchanged = ctx?.[EXCHANGED];
  if (exchanged) return exchanged;
  if (token.kind === 'ClientCredentials') return { txn: randomUUID(), owner: 'platform@example' };
  const groups = GROUPS[token.accountId];
  return {
    ...(process.env.NO_TXN === '1' ? {} : { txn: token.grantId ?? randomUUID() }),
    ...(token.sessionUid ? { sid: token.sessionUid } : {}),
    ...(groups ? { groups } : {}),
  };
}

function provide(issuer) {
  const provider = new oidc.Provider(issuer, {
    jwks: { keys },
    clients: CLIENTS,
    clientAuthMethods: ['client_secret_basic', 'client_secret_post', 'private_key_jwt', 'none'],
    scopes: ['openid', 'offline_access', ...SCOPES],
    pkce: { required: () => true },
    findAccount: (ctx, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
    cookies: { keys: [secret()] },
    extraTokenClaims: claims,
    ttl: { ClientCredentials: LIFETIME, AccessToken: LIFETIME, IdToken: LIFETIME, Grant: 3600, Session: 3600, Interaction: 600, RefreshToken: 3600 },
    features: {
      devInteractions: { enabled: true },
      clientCredentials: { enabled: true },
      revocation: { enabled: true },
      introspection: {
        enabled: true,
        allowedPolicy: (ctx, asking, token) => asking.clientId === 'guard' || token.clientId === asking.clientId,
      },
      dPoP: { enabled: true, nonceSecret: randomBytes(32), requireNonce: () => process.env.DPOP_NONCE === '1' },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => 'urn:example:tools',
        useGrantedResource: () => true,
        getResourceServerInfo: (ctx, resource) => serverOf(resource),
      },
      richAuthorizationRequests: {
        enabled: true,
        types: { agent_task: { validate: (ctx, one) => word(one.intent) }, agent_tool: { validate: (ctx, one) => word(one.tool) } },
        authorizationDetailsForGrantSource: asked,
        authorizationDetailsForAccessToken: (ctx, token, source) => asked(ctx) ?? source?.rar,
        authorizationDetailsForIntrospection: (ctx, token) => token.rar,
      },
    },
  });
  const dupes = ['resource', 'audience'];
  const params = ['subject_token', 'subject_token_type', 'actor_token', 'actor_token_type', 'requested_token_type', 'scope', 'authorization_details'];
  provider.registerGrantType(EXCHANGE, (ctx) => exchange(provider, issuer, ctx), [...params, ...dupes], dupes);
  provider.on('server_error', (ctx, error) => console.error('server_error', error));
  return provider;
}

function serverOf(resource) {
  if (!Object.hasOwn(RESOURCES, resource)) throw new errors.InvalidTarget();
  return { scope: SCOPES.join(' '), audience: resource, accessTokenTTL: LIFETIME, ...RESOURCES[resource] };
}

function word(value) {
  if (typeof value !== 'string' || !value) throw new errors.InvalidAuthorizationDetails('a name is missing');
}

// -- RFC 8693. The product leaves it to its deployer: this part is ours, and proves nothing about other servers. ------------------

async function exchange(provider, issuer, ctx) {
  const { params, client: holder } = ctx.oidc;
  if (!params.subject_token || !params.subject_token_type) throw new errors.InvalidRequest('subject_token and its type are needed');
  if (!params.actor_token !== !params.actor_token_type) throw new errors.InvalidRequest('actor_token comes with its type');
  if (params.requested_token_type && ![ACCESS_TOKEN, JWT_TOKEN].includes(params.requested_token_type)) throw new errors.InvalidRequest('requested_token_type');
  const parent = await presented(provider, issuer, params.subject_token, params.subject_token_type);
  if (params.actor_token) {
    const actor = await presented(provider, issuer, params.actor_token, params.actor_token_type);
    if (actor.sub !== holder.clientId) throw new errors.InvalidGrant('actor_token is not of the authenticated client');
  }
  const proof = await proofOf(provider, ctx);
  if (holder.dpopBoundAccessTokens && !proof) throw new errors.InvalidGrant('a DPoP proof is needed');

  const had = parent.scope.split(' ').filter(Boolean);
  const scope = params.scope ? params.scope.split(' ') : had;
  if (!scope.every((one) => had.includes(one))) throw new errors.InvalidScope('more than the subject token has', params.scope);
  const details = asked(ctx) ?? parent.details;
  if (!narrows(parent.details, details)) throw new errors.InvalidAuthorizationDetails('more than the subject token has');
  const [resource, ...others] = [params.resource ?? params.audience ?? parent.audience].flat();
  if (others.length || (resource !== parent.audience && !ANYBODYS.includes(resource))) throw new errors.InvalidTarget();
  const server = serverOf(resource);

  const left = parent.exp - Math.floor(Date.now() / 1000);
  ctx[EXCHANGED] = {
    txn: parent.txn,
    act: { sub: holder.clientId, iss: issuer, ...(parent.act ? { act: parent.act } : {}) },
    ...(parent.sid ? { sid: parent.sid } : {}),
    ...(parent.owner ? { owner: parent.owner } : {}),
  };
  const token = new provider.AccessToken({
    accountId: parent.sub, client: holder, gty: 'token-exchange', expiresIn: Math.min(server.accessTokenTTL, left), scope: scope.join(' ') || undefined, rar: details,
  });
  token.resourceServer = new provider.ResourceServer(resource, server);
  if (proof) token.setThumbprint('jkt', proof.thumbprint);
  ctx.oidc.entity('AccessToken', token);
  ctx.body = {
    access_token: await token.save(),
    issued_token_type: ACCESS_TOKEN,
    token_type: token.tokenType,
    expires_in: token.expiration,
    scope: token.scope,
    ...(details ? { authorization_details: details } : {}),
  };
}

async function presented(provider, issuer, text, type) {
  if (![ACCESS_TOKEN, JWT_TOKEN].includes(type)) throw new errors.InvalidRequest('this type of token is not taken');
  if (text.split('.').length === 3) {
    try {
      const { payload } = await jose.jwtVerify(text, ours, { issuer, typ: 'at+jwt', algorithms: ALGORITHMS });
      return { ...payload, scope: payload.scope ?? '', details: payload.authorization_details, audience: payload.aud };
    } catch {
      throw new errors.InvalidGrant('the token is not valid');
    }
  }
  const found = (await provider.AccessToken.find(text)) ?? (await provider.ClientCredentials.find(text));
  if (!found || found.isExpired) throw new errors.InvalidGrant('the token is not valid');
  return { ...found.extra, sub: found.accountId ?? found.clientId, scope: found.scope ?? '', details: found.rar, audience: found.aud, exp: found.exp };
}

// Equality only: what a parent says of an argument stands in the child word for word. Sound, and much coarser than guardtrail's own rule.
function narrows(parent, child) {
  if (!parent) return true;
  if (!child) return false;
  const of = (list, type) => list.filter((one) => one.type === type);
  const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
  const covers = (p, c) =>
    p.tool === c.tool
    && (!p.args || (c.args && Object.keys(c.args).length === Object.keys(p.args).length && Object.entries(p.args).every(([k, v]) => same(v, c.args[k]))))
    && (!p.limit || (c.limit && c.limit.calls <= p.limit.calls));
  const tools = of(parent, 'agent_tool');
  return (
    of(parent, 'agent_task').every((task) => child.some((one) => same(one, task)))
    && of(child, 'agent_task').every((task) => !of(parent, 'agent_task').length || of(parent, 'agent_task').some((one) => same(one, task)))
    && (!tools.length || (of(child, 'agent_tool').length > 0 && of(child, 'agent_tool').every((c) => tools.some((p) => covers(p, c)))))
  );
}

let answer = (request, response) => response.writeHead(503).end();
const server = createServer((request, response) => answer(request, response));
server.listen(Number(process.env.PORT || 0), '127.0.0.1', () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  answer = provide(issuer).callback();
  console.log(JSON.stringify({ issuer }));
});
process.stdin.on('end', () => process.exit(0)).resume(); // the test is gone: nobody else stops this process
process.on('SIGTERM', () => process.exit(0));
