// @supabase/postgrest-js against a tenant: what a program written for one PostgREST would do.
// Environment: URL (of the data plane), TENANT, FOREIGN (another tenant), TOKEN, ANON_TOKEN (of the first).
// Tenants are named by header here: not every resolver knows that *.localhost is this machine.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { PostgrestClient } from '@supabase/postgrest-js'
import './supabase.mjs' // its tests run with these

const { URL, TOKEN, ANON_TOKEN, TENANT, FOREIGN } = process.env
const client = (tenant, token) =>
  new PostgrestClient(URL + '/rest/v1', {
    headers: { 'X-Tenant': tenant, ...(token ? { Authorization: `Bearer ${token}`, apikey: token } : {}) },
  })
const db = client(TENANT, TOKEN)
const ok = ({ data, error, status, count }) => {
  assert.equal(error, null, JSON.stringify(error))
  return { data, status, count }
}

test('reads its own rows and nobody else\'s', async () => {
  const { data } = ok(await db.from('projects').select('name,status').order('name'))
  assert.equal(data.length, 3)
  for (const row of data) assert.ok(row.name.startsWith(TENANT + ' '), row.name)
})

test('filters', async () => {
  const { data } = ok(await db.from('projects').select('name').eq('status', 'planned'))
  assert.deepEqual(data, [{ name: `${TENANT} Onboarding` }])
  ok(await db.from('projects').select().in('status', ['active', 'planned']))
  ok(await db.from('projects').select().ilike('name', '%BILL%'))
  const { data: none } = ok(await db.from('projects').select().is('budget', null))
  assert.deepEqual(none, [])
  const { data: not } = ok(await db.from('projects').select('name').not('status', 'eq', 'active'))
  assert.equal(not.length, 1)
  const { data: between } = ok(await db.from('projects').select('name').gte('budget', 1000).lt('budget', 3000))
  assert.equal(between.length, 2)
})

test('orders, pages and counts', async () => {
  const { data, count } = ok(await db.from('tasks').select('title', { count: 'exact' }).order('title', { ascending: false }).range(1, 4))
  assert.equal(count, 9)
  assert.equal(data.length, 4)
  const { count: head } = ok(await db.from('tasks').select('*', { count: 'exact', head: true }))
  assert.equal(head, 9)
})

test('one row, and not exactly one', async () => {
  const { data } = ok(await db.from('projects').select('name').eq('name', `${TENANT} Website`).single())
  assert.deepEqual(data, { name: `${TENANT} Website` })
  const { error, status } = await db.from('projects').select().eq('name', 'nothing').single()
  assert.equal(status, 406)
  assert.equal(error.code, 'PGRST116')
  const { data: maybe } = ok(await db.from('projects').select().eq('name', 'nothing').maybeSingle())
  assert.equal(maybe, null)
})

test('inserts, updates and deletes', async () => {
  const { data: made, status } = ok(await db.from('projects').insert({ name: 'New', budget: 5 }).select().single())
  assert.equal(status, 201)
  assert.equal(made.status, 'active')
  const many = ok(await db.from('tasks').insert([{ project_id: made.id, title: 'a', position: 1 }, { project_id: made.id, title: 'b', position: 2 }]))
  assert.equal(many.status, 201)
  const { data: updated } = ok(await db.from('tasks').update({ state: 'done' }).eq('project_id', made.id).select('title,state').order('title'))
  assert.deepEqual(updated, [{ title: 'a', state: 'done' }, { title: 'b', state: 'done' }])
  assert.equal(ok(await db.from('tasks').update({ state: 'open' }).eq('project_id', made.id)).status, 204)
  const { data: gone } = ok(await db.from('projects').delete().eq('id', made.id).select('id'))
  assert.deepEqual(gone, [{ id: made.id }])
  const { data: cascaded } = ok(await db.from('tasks').select().eq('project_id', made.id))
  assert.deepEqual(cascaded, [])
})

test('errors are what clients match on', async () => {
  const taken = await db.from('projects').insert({ name: `${TENANT} Website` })
  assert.equal(taken.status, 409)
  assert.equal(taken.error.code, '23505')
  const table = await db.from('projcts').select()
  assert.equal(table.status, 404)
  assert.equal(table.error.code, 'PGRST205')
  assert.match(table.error.hint, /projects/)
  const column = await db.from('projects').select('nothing')
  assert.equal(column.status, 400)
  assert.equal(column.error.code, '42703')
  const value = await db.from('projects').select().eq('id', '1; drop table projects')
  assert.equal(value.status, 400)
  assert.equal(value.error.code, '22P02')
  for (const { error } of [taken, table, column, value]) assert.deepEqual(Object.keys(error).sort(), ['code', 'details', 'hint', 'message'])
})

test('a token of one tenant for another is refused', async () => {
  const { status, error } = await client(FOREIGN, TOKEN).from('projects').select()
  assert.equal(status, 403)
  assert.equal(error.code, 'tenant_mismatch')
})

test('anonymous sees what anon may see: nothing', async () => {
  for (const token of [undefined, ANON_TOKEN]) {
    const { status, error } = await client(TENANT, token).from('projects').select()
    assert.equal(status, 401)
    assert.equal(error.code, '42501')
  }
})

test('abort', async () => {
  const { error } = await db.from('projects').select().abortSignal(AbortSignal.abort())
  assert.match(error.message, /abort/i)
})
