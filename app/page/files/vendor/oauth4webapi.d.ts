export const allowInsecureRequests: unique symbol;
export const skipStateCheck: unique symbol;
export interface AuthorizationServer { issuer: string; authorization_endpoint?: string; token_endpoint?: string; }
export interface Client { client_id: string; }
export interface TokenAnswer { access_token: string; expires_in?: number; }
export function generateRandomCodeVerifier(): string;
export function generateRandomState(): string;
export function calculatePKCECodeChallenge(verifier: string): Promise<string>;
export function discoveryRequest(issuer: URL, options?: object): Promise<Response>;
export function processDiscoveryResponse(issuer: URL, response: Response): Promise<AuthorizationServer>;
export function validateAuthResponse(server: AuthorizationServer, client: Client, parameters: URLSearchParams, state: string): URLSearchParams;
export function None(): unknown;
export function authorizationCodeGrantRequest(server: AuthorizationServer, client: Client, authentication: unknown, parameters: URLSearchParams, redirect: string, verifier: string, options?: object): Promise<Response>;
export function processAuthorizationCodeResponse(server: AuthorizationServer, client: Client, response: Response, options?: object): Promise<TokenAnswer>;
