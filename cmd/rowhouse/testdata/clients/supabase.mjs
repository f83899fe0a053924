// @supabase/supabase-js against a tenant: the calls of an ordinary program, and what it gets for its mistakes.
// Run by postgrest.mjs, with the same environment.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createClient } from '@supabase/supabase-js'

const { URL: base, TOKEN, TENANT } = process.env
const connect = (fetch) =>
  createClient(base, TOKEN, {
    auth: { persistSession: false, autoRefreshToken: false, detectSessionInUrl: false },
    realtime: { transport: class {} }, // not used; older versions of Node have no WebSocket to give it
    global: { headers: { 'X-Tenant': TENANT }, ...(fetch ? { fetch } : {}) },
  })
const db = connect()
const ok = ({ data, error, status, count }) => {
  assert.equal(error, null, JSON.stringify(error))
  return { data, status, count }
}
const fails = async (query, status, code) => {
  const answer = await query
  assert.equal(answer.error?.code, code, JSON.stringify(answer.error ?? answer.data))
  assert.equal(answer.status, status)
  return answer.error
}
const name = (n) => `${TENANT} supabase ${n}`
const website = `${TENANT} Website`

test('supabase-js: embeds in both directions', async () => {
  const { data: one } = ok(await db.from('projects').select('name,tasks(title)').eq('name', website).single())
  assert.ok(one.tasks.length > 0)
  const { data: tasks } = ok(await db.from('tasks').select('title,project:projects!inner(name)').eq('project.name', website))
  assert.equal(tasks.length, one.tasks.length)
  for (const t of tasks) assert.deepEqual(t.project, { name: website })
  const { data: sorted } = ok(await db.from('projects').select('name,tasks(title)').order('name')
    .order('title', { referencedTable: 'tasks', ascending: false }).limit(1, { referencedTable: 'tasks' }))
  for (const p of sorted) assert.ok(p.tasks.length <= 1)
  const { data: byParent } = ok(await db.from('tasks').select('projects(name)').order('projects(name)'))
  const names = byParent.map((t) => t.projects.name)
  assert.deepEqual(names, [...names].sort())
})

test('supabase-js: spreads, null embeds and aggregates', async () => {
  const { data: spread } = ok(await db.from('tasks').select('title,...projects(project:name)').limit(2))
  for (const t of spread) assert.ok(t.project.startsWith(TENANT))
  const { data: arrays } = ok(await db.from('projects').select('name,...tasks(titles:title)').eq('name', website).single())
  assert.ok(Array.isArray(arrays.titles))
  const { data: with_ } = ok(await db.from('projects').select('name,tasks()').not('tasks', 'is', null))
  const { data: without } = ok(await db.from('projects').select('name,tasks()').is('tasks', null))
  assert.equal(with_.length + without.length, 3)
  const { data: groups } = ok(await db.from('tasks').select('state,count()').order('state'))
  assert.equal(groups.reduce((n, g) => n + g.count, 0), 9)
  const { data: counted } = ok(await db.from('projects').select('name,tasks(count)').order('name'))
  for (const p of counted) assert.equal(typeof p.tasks[0].count, 'number')
})

test('supabase-js: counts', async () => {
  for (const count of ['exact', 'planned', 'estimated']) {
    const answer = ok(await db.from('tasks').select('id', { count, head: true }))
    assert.equal(answer.data, null)
    assert.equal(typeof answer.count, 'number', count)
  }
  assert.equal(ok(await db.from('tasks').select('id', { count: 'exact' }).range(0, 1)).count, 9)
})

test('supabase-js: other representations', async () => {
  const { data: csv } = ok(await db.from('projects').select('name,status').eq('name', website).csv())
  assert.equal(csv, `name,status\n"${website}",active`)
  const { data: stripped } = ok(await db.from('tasks').select('title,due').is('due', null).limit(1).stripNulls())
  for (const row of stripped) assert.ok(!('due' in row))
  await fails(db.from('projects').select().explain(), 406, 'PGRST107') // plans tell of other tenants
})

test('supabase-js: filters', async () => {
  const count = async (build) => ok(await build(db.from('tasks').select('id', { count: 'exact', head: true }))).count
  assert.equal(await count((q) => q.or('state.eq.open,state.eq.doing,state.eq.done')), 9)
  assert.equal(await count((q) => q.in('state', ['open', 'doing', 'done'])), 9)
  assert.equal(await count((q) => q.in('state', [])), 0)
  assert.equal(await count((q) => q.match({ state: 'open', position: -1 })), 0)
  assert.equal(await count((q) => q.filter('position', 'gte', 0).not('title', 'is', null)), 9)
  ok(await db.from('projects').select().contains('labels', {}))
  ok(await db.from('projects').select('label:labels->>kind').likeAnyOf('name', [`${TENANT}%`, 'x%']))
  ok(await db.from('projects').select().textSearch('name', 'website', { type: 'websearch', config: 'english' }))
  await fails(db.from('projects').select('id').eq('nosuch', 1), 400, '42703')
})

test('supabase-js: writes and upserts', async (t) => {
  t.after(() => db.from('projects').delete().like('name', name('%')))
  const { data: made, status } = ok(await db.from('projects').insert([{ name: name('a'), budget: 1 }, { name: name('b'), budget: 2 }]).select('name,budget'))
  assert.equal(status, 201)
  assert.equal(made.length, 2)
  assert.equal(ok(await db.from('projects').insert({ name: name('c') })).status, 201)
  // The key is unique within the tenant: of its column the program knows nothing.
  const again = ok(await db.from('projects').upsert({ name: name('a'), budget: 3 }, { onConflict: 'name' }).select('budget').single())
  assert.equal(again.status, 200)
  assert.equal(again.data.budget, 3)
  assert.equal(ok(await db.from('projects').upsert({ name: name('d') }, { onConflict: 'name' })).status, 201)
  const ignored = ok(await db.from('projects').upsert({ name: name('a'), budget: 9 }, { onConflict: 'name', ignoreDuplicates: true }).select())
  assert.deepEqual(ignored.data, [])
  const defaults = ok(await db.from('projects').insert([{ name: name('e'), status: 'new' }, { name: name('f') }], { defaultToNull: false }).select('status').order('status'))
  assert.deepEqual(defaults.data, [{ status: 'active' }, { status: 'new' }])
  const { data: updated, count } = ok(await db.from('projects').update({ budget: 7 }, { count: 'exact' }).like('name', name('%')).select('id'))
  assert.equal(updated.length, count)
  await fails(db.from('projects').update({ budget: 8 }).like('name', name('%')).maxAffected(2), 400, 'PGRST124')
  await fails(db.from('projects').insert({ name: name('a') }), 409, '23505')
  await fails(db.from('projects').insert({ nosuch: 1 }), 400, 'PGRST204')
  await fails(db.from('tasks').insert({ title: 'x', project_id: '00000000-0000-0000-0000-000000000000' }), 409, '23503')
  await fails(db.from('projects').insert([{ name: name('g') }, { name: name('h') }]).select().single(), 406, 'PGRST116')
  assert.equal(ok(await db.from('projects').select('id', { count: 'exact', head: true }).in('name', [name('g'), name('h')])).count, 0)
})

test('supabase-js: mistakes', async () => {
  await fails(db.from('projects').select('name,nosuch(id)'), 400, 'PGRST200')
  await fails(db.from('projects').select('name').order('tasks(title)'), 400, 'PGRST108')
  await fails(db.rpc('nosuch', { a: 1 }), 404, 'PGRST202')
  await fails(db.schema('rowhouse').from('tables').select(), 406, 'PGRST106')
  const error = await fails(db.from('task').select(), 404, 'PGRST205')
  assert.match(error.hint, /public\.tasks/)
  await assert.rejects(async () => await db.from('nosuch').select().throwOnError(), { code: 'PGRST205' })
})

test('supabase-js: abort, before and under way', async () => {
  const { error } = await db.from('projects').select().abortSignal(AbortSignal.abort())
  assert.match(error.message, /abort/i)
  const stop = new AbortController()
  const slow = connect((url, init) => {
    const answer = fetch(url, init)
    stop.abort()
    return answer
  })
  const { error: late } = await slow.from('projects').select().abortSignal(stop.signal)
  assert.match(late.message, /abort/i)
  assert.equal(ok(await db.from('projects').select()).data.length, 3)
})

test('supabase-js: a read rides over a 503', async () => {
  let tries = 0
  const shaky = connect((url, init) => {
    if (++tries === 1) return new Response('{"code":"database_unavailable","message":"m","details":null,"hint":null}', { status: 503, headers: { 'Retry-After': '1' } })
    return fetch(url, init)
  })
  assert.equal(ok(await shaky.from('projects').select()).data.length, 3)
  assert.equal(tries, 2)
})
